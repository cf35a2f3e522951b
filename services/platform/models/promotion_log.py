"""The history of promotions, refusals and rollbacks, with their reasons and figures.

A stream from which nothing can be deleted. It does not depend on the registry, so serving can
read it.
"""

import logging
from datetime import datetime
from enum import StrEnum

from nats.js import JetStreamContext
from pydantic import BaseModel, ValidationError

from services.platform.streaming.stored import ensure_history, history
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

HISTORY_STREAM = "MODEL_HISTORY"


class PromotionEvent(StrEnum):
    """A decision about a model."""

    promoted = "promoted"
    refused = "refused"
    rolled_back = "rolled_back"


class PromotionRecord(BaseModel):
    """One row of the history.

    Attributes:
        at: When, UTC.
        event: The decision.
        design: Design of the model.
        version: Version of the model.
        model: Its label "candidate:version"; after a rollback, the model that serves again.
        before: Version of the champion until then; None for the first.
        reasons: Why, a clause each.
        figures: The figures the decision is based on.
    """

    at: datetime
    event: PromotionEvent
    design: str
    version: int
    model: str
    before: int | None
    reasons: list[str]
    figures: dict[str, float] = {}


async def append_record(js: JetStreamContext, record: PromotionRecord) -> None:
    """Append a row. nats.errors.Error if the stream did not acknowledge it."""
    await ensure_history(js, HISTORY_STREAM, ["model.>"])
    await js.publish(f"model.{record.design}", record.model_dump_json().encode())


async def read_history(js: JetStreamContext, design: str) -> list[PromotionRecord]:
    """All rows of a design, oldest first; none before there is a stream."""
    return [
        record
        async for seq, message in history(js, HISTORY_STREAM)
        if message.subject == f"model.{design}"
        for record in _readable(seq, message.data or b"")
    ]


def _readable(seq: int, data: bytes) -> list[PromotionRecord]:
    """The row; none where it cannot be read, which must not block a rollback."""
    try:
        return [PromotionRecord.model_validate_json(data)]
    except ValidationError as error:
        EVENTS.labels("history", "unreadable").inc()
        log.error("row %d of the history skipped: %s", seq, error.errors()[0]["msg"])
        return []
