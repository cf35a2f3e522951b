"""The lake writer: batches transactions, labels and decisions into Parquet on S3.

It acknowledges after the write. A batch that is written twice, because the process died between
the two, is read once: rows are keyed by their sequence.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from nats.js import JetStreamContext
from pydantic import ValidationError

from services.fraud.history import DECISIONS_TABLE, LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.ingestion import (
    DEAD,
    DECISIONS,
    DECISIONS_STREAM,
    LABELS,
    STREAM,
    STREAMS,
    TRANSACTIONS,
    DecisionEvent,
    LabelEvent,
    explain,
    parse,
)
from services.skeleton.lake import Lake
from services.skeleton.process import report_lag, run_worker
from services.skeleton.settings import Settings, settings
from services.skeleton.stream import Delivered, OrderedConsumer, connect, consume, dead_letter
from services.skeleton.telemetry import EVENTS

NAME = "lake"
DECISIONS_NAME = "lake-decisions"
BATCH = 5_000
LINGER_S = 3.0

_SCHEMAS: Mapping[str, pa.Schema] = {
    TRANSACTIONS_TABLE: TRANSACTIONS,
    LABELS_TABLE: LABELS,
    DECISIONS_TABLE: DECISIONS,
}
Row = dict[str, Any]


class LakeWriter:
    """Writes batches of one stream."""

    def __init__(self, js: JetStreamContext, lake: Lake, name: str) -> None:
        self._js = js
        self._lake = lake
        self._name = name

    async def handle(self, batch: list[Delivered]) -> None:
        """Write one batch, a file a table and date; what can't be read goes to the dead letters.

        Raises:
            OSError, nats.errors.Error: an engine is away; try the same batch again.
        """
        tables: dict[str, list[Row]] = defaultdict(list)
        for message in batch:
            try:
                table, row = _row(message)
                tables[table].append({"seq": message.seq, **row})
            except ValueError as error:
                await dead_letter(self._js, DEAD, self._name, message, str(error))
                EVENTS.labels(self._name, "dead").inc()
        name = f"{self._name}-{batch[0].seq:012d}-{batch[-1].seq:012d}"
        for table, rows in tables.items():
            columns = pa.Table.from_pylist(rows, schema=_SCHEMAS[table])
            await asyncio.to_thread(self._lake.write, table, columns, name)
            EVENTS.labels(self._name, "written").inc(len(rows))


def _row(message: Delivered) -> tuple[str, Row]:
    """The table a message belongs to, and its row. ValueError says what is wrong with it."""
    if message.subject.startswith("fraud.decision."):
        return DECISIONS_TABLE, _decision_row(message.data)
    event = parse(message)
    table = LABELS_TABLE if isinstance(event, LabelEvent) else TRANSACTIONS_TABLE
    return table, event.model_dump()


def _decision_row(data: bytes) -> Row:
    try:
        event = DecisionEvent.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    transaction = event.transaction.model_dump(exclude={"currency"})
    own = event.model_dump(exclude={"transaction", "features", "seqs"})
    nan = float("nan")
    return {
        **transaction,
        **own,
        "features": [nan if value is None else value for value in event.features],
        "seqs": list(event.seqs.items()),
    }


async def serve(config: Settings) -> None:
    """Run both consumers until cancelled."""
    nc = await connect(config, "lake-writer", patience_s=60.0)
    lake = Lake(config)
    streams = {NAME: STREAM, DECISIONS_NAME: DECISIONS_STREAM}
    consumers = {
        name: OrderedConsumer(nc, stream, name, STREAMS[stream], BATCH, LINGER_S)
        for name, stream in streams.items()
    }
    lag = asyncio.create_task(report_lag(consumers))
    try:
        async with asyncio.TaskGroup() as group:
            for name, consumer in consumers.items():
                writer = LakeWriter(nc.jetstream(), lake, name)
                group.create_task(consume(consumer, writer.handle))
    finally:
        lag.cancel()
        await nc.close()


def main() -> None:
    """Start the writer."""
    config = settings()
    run_worker(config, config.metrics_port + 1, lambda: serve(config))


if __name__ == "__main__":
    main()
