"""Inspections in the stream, as a worker publishes them."""

from datetime import UTC, datetime

from nats.aio.client import Client

from services.cv_inspection.ingestion.events import (
    ImageRef,
    InspectionEvent,
    Quality,
    inspection_subject,
)


def made_inspection(number: int = 0) -> InspectionEvent:
    """An inspection whose id is a number."""
    return InspectionEvent(
        inspection_id=f"{number:032x}", key=f"line-a/station-1/lot/{number}.jpg",
        place=ImageRef(line="line-a", station="station-1", lot="lot", frame=str(number)),
        at=datetime.now(UTC), label="good", defect=0.1, probabilities={"good": 0.9},
        decision="pass", reason="", threshold=0.5, model="model:1", defect_share=0.0,
        quality=Quality(brightness=0.5, contrast=0.1, sharpness=0.1, clipped=0.0), mask_key=None,
    )  # fmt: skip


async def stored_inspection(nc: Client, number: int = 0) -> str:
    """Publish one. Returns its id."""
    event = made_inspection(number)
    await nc.jetstream().publish(inspection_subject(event), event.model_dump_json().encode())
    return event.inspection_id
