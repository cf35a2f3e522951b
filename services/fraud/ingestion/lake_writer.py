"""The fraud lake writer: transactions, labels, decisions and verdicts as rows of the lake."""

from services.fraud.ingestion.events import (
    DEAD,
    DECISIONS_STREAM,
    STREAM,
    VERDICT,
    VERDICTS_STREAM,
    DecisionEvent,
    LabelEvent,
    VerdictEvent,
    parse_event,
    parse_published,
)
from services.fraud.ingestion.tables import (
    DECISIONS_TABLE,
    LABELS_TABLE,
    SCHEMAS,
    TRANSACTIONS_TABLE,
    VERDICTS_TABLE,
)
from services.platform.settings import Settings
from services.platform.storage import lake_writer
from services.platform.storage.lake_writer import Row
from services.platform.streaming.consumer import ALL_SUBJECTS, Message

NAME = "lake"
DECISIONS_NAME = "lake-decisions"
VERDICTS_NAME = "lake-verdicts"


def to_row(message: Message) -> tuple[str, Row]:
    """The table and the row of a message. ValueError names the field that is wrong."""
    if message.subject.startswith("fraud.decision."):
        return DECISIONS_TABLE, _decision_row(message.data)
    if message.subject.startswith(f"{VERDICT}."):
        return VERDICTS_TABLE, parse_published(VerdictEvent, message.data).model_dump(
            exclude={"transaction"}
        )
    event = parse_event(message)
    table = LABELS_TABLE if isinstance(event, LabelEvent) else TRANSACTIONS_TABLE
    return table, event.model_dump()


def _decision_row(data: bytes) -> Row:
    event = parse_published(DecisionEvent, data)
    transaction = event.transaction.model_dump(exclude={"currency"})
    decision = event.model_dump(
        exclude={"transaction", "features", "seqs", "stage_seconds", "decided_at"}
    )
    nan = float("nan")
    return {
        **transaction,
        **decision,
        "features": [nan if value is None else value for value in event.features],
        "seqs": list(event.seqs.items()),
    }


async def main(config: Settings) -> None:
    """Run until cancelled."""
    streams = {
        NAME: (STREAM, ALL_SUBJECTS),
        DECISIONS_NAME: (DECISIONS_STREAM, ALL_SUBJECTS),
        VERDICTS_NAME: (VERDICTS_STREAM, ALL_SUBJECTS),
    }
    await lake_writer.serve(config, streams, SCHEMAS, to_row, DEAD)
