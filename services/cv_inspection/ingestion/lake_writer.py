"""The lake writer of this design: inspections and labels from the streams into tables."""

from datetime import UTC, datetime

from services.cv_inspection.ingestion.events import (
    DEAD,
    DECISIONS_STREAM,
    LABEL,
    STREAM,
    parse_inspection,
    parse_label,
)
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE, LABELS_TABLE, SCHEMAS
from services.platform.settings import Settings
from services.platform.storage import lake_writer
from services.platform.storage.lake_writer import Row
from services.platform.streaming.consumer import ALL_SUBJECTS, Message

# What of an inspection is in columns of its own, or in no row.
_NOT_IN_ROW = {
    "at", "place", "quality", "probabilities", "mask_key", "map_key", "max_novelty",
}  # fmt: skip
INSPECTIONS_CONSUMER, LABELS_CONSUMER = "cv-lake", "cv-lake-verdicts"


def to_row(message: Message) -> tuple[str, Row]:
    """The table a message belongs to, and its row. ValueError says what is wrong with it."""
    if message.subject.startswith(f"{LABEL}."):
        label = parse_label(message.data)
        at = datetime.fromtimestamp(message.published_us / 1e6, UTC)
        return LABELS_TABLE, {"event_time": at, **label.model_dump()}
    event = parse_inspection(message.data)
    return INSPECTIONS_TABLE, {
        "event_time": event.at,
        **event.model_dump(exclude=_NOT_IN_ROW),
        **event.place.model_dump(exclude={"frame"}),
        **event.quality.model_dump(),
    }


async def main(config: Settings) -> None:
    """Run until cancelled."""
    streams = {
        INSPECTIONS_CONSUMER: (DECISIONS_STREAM, ALL_SUBJECTS),
        LABELS_CONSUMER: (STREAM, f"{LABEL}.>"),
    }
    await lake_writer.serve(config, streams, SCHEMAS, to_row, DEAD)
