"""Commands to the scheduler, as they are published on the control stream."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTROL = "CONTROL"


def control_subject(design: str) -> str:
    """Subject of a design's commands."""
    return f"control.{design}"


class Command(BaseModel):
    """A command for the scheduler.

    Attributes:
        verb: What to do; "night" is the nightly retraining.
        candidate: Of a swap: the candidate.
        reason: Of a rollback: why.
    """

    model_config = ConfigDict(extra="forbid")

    verb: Literal["swap", "rollback", "night"]
    candidate: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    reason: Annotated[str, Field(max_length=200)] = "by order"
