"""What was promoted, refused and rolled back, when, against whom, and by which figures.

A stream from which nothing can be deleted. It knows no registry, so serving may read it.
"""

from datetime import datetime
from enum import StrEnum

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from pydantic import BaseModel

HISTORY = "MODEL_HISTORY"


class Event(StrEnum):
    """What can happen to a model."""

    promoted = "promoted"
    refused = "refused"
    rolled_back = "rolled_back"


class Record(BaseModel):
    """One row of the history.

    Attributes:
        at: When, UTC. model: "candidate:version" the event is about; after a rollback, the model
            that serves again. before: The champion until then.
        reasons: Why, a clause each. figures: What the decision was based on.
    """

    at: datetime
    event: Event
    design: str
    version: int
    model: str
    before: int | None
    reasons: list[str]
    figures: dict[str, float] = {}


async def append(js: JetStreamContext, record: Record) -> None:
    """Add a row. nats.errors.Error if the stream did not take it."""
    try:
        await js.stream_info(HISTORY)
    except NotFoundError:
        await js.add_stream(
            api.StreamConfig(
                name=HISTORY,
                subjects=["model.>"],
                storage=api.StorageType.FILE,
                deny_delete=True,
                deny_purge=True,
            )
        )
    await js.publish(f"model.{record.design}", record.model_dump_json().encode())


async def read(js: JetStreamContext, design: str) -> list[Record]:
    """All rows of a design, oldest first."""
    try:
        state = (await js.stream_info(HISTORY)).state
    except NotFoundError:
        return []
    records = []
    for seq in range(max(state.first_seq, 1), state.last_seq + 1):
        message = await js.get_msg(HISTORY, seq)
        if message.subject == f"model.{design}":
            records.append(Record.model_validate_json(message.data or b""))
    return records
