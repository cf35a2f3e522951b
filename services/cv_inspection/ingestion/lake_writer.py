"""What the lake keeps of this design's streams: inspections and verdicts."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from services.cv_inspection.ingestion.events import (
    DEAD,
    DECISIONS_STREAM,
    INSPECTIONS,
    STREAM,
    VERDICT,
    VERDICTS,
    parse_inspection,
    parse_verdict,
)
from services.platform.runtime.worker import run_worker
from services.platform.settings import Settings, settings
from services.platform.storage import lake_writer
from services.platform.storage.lake_writer import Row
from services.platform.streaming.consumer import EVERYTHING, Delivered

NAME, VERDICTS_NAME = "cv-lake", "cv-lake-verdicts"
INSPECTIONS_TABLE, VERDICTS_TABLE = "cv/inspections", "cv/verdicts"

SCHEMAS: Mapping[str, pa.Schema] = {INSPECTIONS_TABLE: INSPECTIONS, VERDICTS_TABLE: VERDICTS}


def to_row(message: Delivered) -> tuple[str, Row]:
    """The table a message belongs to, and its row. ValueError says what is wrong with it."""
    if message.subject.startswith(f"{VERDICT}."):
        told = parse_verdict(message.data)
        at = datetime.fromtimestamp(message.published_us / 1e6, UTC)
        return VERDICTS_TABLE, {"event_time": at, **told.model_dump()}
    event = parse_inspection(message.data)
    return INSPECTIONS_TABLE, {
        "event_time": event.at,
        **event.model_dump(exclude={"at", "place", "quality", "probabilities", "mask_key"}),
        **event.place.model_dump(exclude={"frame"}),
        **event.quality.model_dump(),
    }


async def serve(config: Settings) -> None:
    """Run until cancelled."""
    streams = {
        NAME: (DECISIONS_STREAM, EVERYTHING),
        VERDICTS_NAME: (STREAM, f"{VERDICT}.>"),
    }
    await lake_writer.serve(config, streams, SCHEMAS, to_row, DEAD)


def main() -> None:
    """Start the writer."""
    config = settings()
    run_worker(config, config.metrics_port + 5, lambda: serve(config))


if __name__ == "__main__":
    main()
