"""The lake writer: writes messages of streams as Parquet to S3, in batches.

It acknowledges after the write. A crash in between writes a batch twice; readers of the lake
deduplicate by sequence. The design converts a message to a row.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from nats.js import JetStreamContext

from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume, dead_letter
from services.platform.streaming.lag import report_lag
from services.platform.telemetry import EVENTS

BATCH = 5_000
MAX_WAIT_S = 3.0

Row = dict[str, Any]
# Converts a message to its table and row. ValueError if it is malformed, with the reason.
ToRow = Callable[[Message], tuple[str, Row]]


class LakeWriter:
    """Writes batches of one stream."""

    def __init__(
        self,
        js: JetStreamContext,
        lake: Lake,
        name: str,
        schemas: Mapping[str, pa.Schema],
        to_row: ToRow,
        dead_letter_subject: str,
    ) -> None:
        """Write nothing yet.

        Args:
            name: Name of the consumer.
            schemas: Schema by table.
            to_row: Converts a message.
            dead_letter_subject: Subject for messages that cannot be converted.
        """
        self._js = js
        self._lake = lake
        self._name = name
        self._schemas = schemas
        self._to_row = to_row
        self._dead_letter_subject = dead_letter_subject

    async def handle(self, batch: list[Message]) -> None:
        """Write one batch as a file per table and date; dead-letter malformed messages.

        Raises:
            OSError, nats.errors.Error: an engine is unavailable; retry the same batch.
        """
        tables: dict[str, list[Row]] = defaultdict(list)
        for message in batch:
            try:
                table, row = self._to_row(message)
                tables[table].append({"seq": message.seq, **row})
            except ValueError as error:
                await dead_letter(
                    self._js, self._dead_letter_subject, self._name, message, str(error)
                )
                EVENTS.labels(self._name, "dead").inc()
        name = f"{self._name}-{batch[0].seq:012d}-{batch[-1].seq:012d}"
        for table, rows in tables.items():
            columns = pa.Table.from_pylist(rows, schema=self._schemas[table])
            await asyncio.to_thread(self._lake.write, table, columns, name)
            EVENTS.labels(self._name, "written").inc(len(rows))


async def serve(
    config: Settings,
    streams: Mapping[str, tuple[str, str]],
    schemas: Mapping[str, pa.Schema],
    to_row: ToRow,
    dead_letter_subject: str,
) -> None:
    """Write some streams to the lake until cancelled.

    Args:
        streams: Stream and subject by consumer name.
        schemas: Schema by table.
        to_row: Converts a message.
        dead_letter_subject: Subject for messages that cannot be converted.
    """
    nc = await connect(config, "lake-writer", timeout_s=60.0)
    lake = Lake(config)
    consumers = {
        name: OrderedConsumer(nc, stream, name, subject, BATCH, MAX_WAIT_S)
        for name, (stream, subject) in streams.items()
    }
    lag = asyncio.create_task(report_lag(consumers))
    try:
        async with asyncio.TaskGroup() as group:
            for name, consumer in consumers.items():
                writer = LakeWriter(
                    nc.jetstream(), lake, name, schemas, to_row, dead_letter_subject
                )
                group.create_task(consume(consumer, writer.handle))
    finally:
        lag.cancel()
        await nc.close()
