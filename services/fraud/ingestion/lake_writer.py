"""What the lake keeps of this design's streams: transactions, labels and decisions."""

from collections.abc import Mapping

import pyarrow as pa
from pydantic import ValidationError

from services.fraud.ingestion.events import (
    DEAD,
    DECISIONS,
    DECISIONS_STREAM,
    LABELS,
    STREAM,
    TRANSACTIONS,
    DecisionEvent,
    LabelEvent,
    parse,
)
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE, TRANSACTIONS_TABLE
from services.platform.runtime.worker import run_worker
from services.platform.settings import Settings, settings
from services.platform.storage import lake_writer
from services.platform.storage.lake_writer import Row
from services.platform.streaming.consumer import EVERYTHING, Delivered
from services.platform.streaming.messages import explain

NAME = "lake"
DECISIONS_NAME = "lake-decisions"

SCHEMAS: Mapping[str, pa.Schema] = {
    TRANSACTIONS_TABLE: TRANSACTIONS,
    LABELS_TABLE: LABELS,
    DECISIONS_TABLE: DECISIONS,
}


def to_row(message: Delivered) -> tuple[str, Row]:
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
    """Run until cancelled."""
    streams = {NAME: (STREAM, EVERYTHING), DECISIONS_NAME: (DECISIONS_STREAM, EVERYTHING)}
    await lake_writer.serve(config, streams, SCHEMAS, to_row, DEAD)


def main() -> None:
    """Start the writer."""
    config = settings()
    run_worker(config, config.metrics_port + 1, lambda: serve(config))


if __name__ == "__main__":
    main()
