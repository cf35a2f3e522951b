"""The lake writer: batches messages of streams into Parquet on S3.

It acknowledges after the write. A batch that is written twice, because the process died between
the two, is read once: rows are keyed by their sequence. What a message becomes is the design's.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from nats.js import JetStreamContext

from services.platform.runtime.worker import report_lag
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import (
    Delivered,
    OrderedConsumer,
    connect,
    consume,
    dead_letter,
)
from services.platform.telemetry import EVENTS

BATCH = 5_000
LINGER_S = 3.0

Row = dict[str, Any]
# The table a message belongs to, and its row. ValueError says what is wrong with it.
ToRow = Callable[[Delivered], tuple[str, Row]]


class LakeWriter:
    """Writes batches of one stream."""

    def __init__(
        self,
        js: JetStreamContext,
        lake: Lake,
        name: str,
        schemas: Mapping[str, pa.Schema],
        to_row: ToRow,
        dead: str,
    ) -> None:
        """Write nothing yet.

        Args:
            name: The consumer's. schemas: By table. dead: Subject of the dead letters.
        """
        self._js = js
        self._lake = lake
        self._name = name
        self._schemas = schemas
        self._to_row = to_row
        self._dead = dead

    async def handle(self, batch: list[Delivered]) -> None:
        """Write one batch, a file a table and date; what can't be read goes to the dead letters.

        Raises:
            OSError, nats.errors.Error: an engine is away; try the same batch again.
        """
        tables: dict[str, list[Row]] = defaultdict(list)
        for message in batch:
            try:
                table, row = self._to_row(message)
                tables[table].append({"seq": message.seq, **row})
            except ValueError as error:
                await dead_letter(self._js, self._dead, self._name, message, str(error))
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
    dead: str,
) -> None:
    """Write some streams until cancelled.

    Args:
        streams: By consumer name, the stream and the subject to write.
    """
    nc = await connect(config, "lake-writer", patience_s=60.0)
    lake = Lake(config)
    consumers = {
        name: OrderedConsumer(nc, stream, name, subject, BATCH, LINGER_S)
        for name, (stream, subject) in streams.items()
    }
    lag = asyncio.create_task(report_lag(consumers))
    try:
        async with asyncio.TaskGroup() as group:
            for name, consumer in consumers.items():
                writer = LakeWriter(nc.jetstream(), lake, name, schemas, to_row, dead)
                group.create_task(consume(consumer, writer.handle))
    finally:
        lag.cancel()
        await nc.close()
