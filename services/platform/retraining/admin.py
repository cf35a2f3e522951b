"""Admin routes of a scorer: ask for a swap, a rollback or a night, and read the history.

The scorer does none of it itself: it puts an order on the control stream, and the scheduler,
which has what training needs, carries it out. The routes are shut unless a token is set.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Header, HTTPException
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import BaseModel, ConfigDict, Field

from services.platform.models.promotion_log import Record, read
from services.platform.runtime.http import bears

CONTROL = "CONTROL"


def control_subject(design: str) -> str:
    """Where the orders for a design go."""
    return f"control.{design}"


class Order(BaseModel):
    """What is to be done; `candidate` goes with a swap, `reason` with a rollback."""

    model_config = ConfigDict(extra="forbid")

    verb: Literal["swap", "rollback", "night"]
    candidate: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    reason: Annotated[str, Field(max_length=200)] = "by order"


class Swap(BaseModel):
    """Which candidate is to challenge the champion."""

    model_config = ConfigDict(extra="forbid")

    candidate: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


class Reason(BaseModel):
    """Why the champion is to go."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=200)] = "by order"


class Taken(BaseModel):
    """An order that was taken; what becomes of it is in the history."""

    order: int


def add_admin(app: FastAPI, design: str, token: str, nats: Callable[[], Client]) -> None:
    """Add `/admin/swap`, `/admin/rollback`, `/admin/night` and `/admin/history`."""

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not token:
            raise HTTPException(403, "no admin token is set: WHITEBOARD_ADMIN_TOKEN")
        if not bears(authorization, token):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def order(what: Order) -> Taken:
        try:
            js = nats().jetstream()
            ack = await js.publish(control_subject(design), what.model_dump_json().encode())
        except (NatsError, TimeoutError) as error:
            raise HTTPException(503, "the control stream is away: ask again") from error
        return Taken(order=ack.seq)

    shared = {"tags": ["admin"], "dependencies": [Depends(authorised)]}

    @app.post("/admin/swap", status_code=202, summary="Enter a challenger", **shared)  # type: ignore[arg-type]
    async def swap(body: Swap) -> Taken:
        return await order(Order(verb="swap", candidate=body.candidate))

    @app.post("/admin/rollback", status_code=202, summary="Back to the one before", **shared)  # type: ignore[arg-type]
    async def rollback(body: Reason) -> Taken:
        return await order(Order(verb="rollback", reason=body.reason))

    @app.post("/admin/night", status_code=202, summary="Let a night pass", **shared)  # type: ignore[arg-type]
    async def night() -> Taken:
        return await order(Order(verb="night"))

    @app.get("/admin/history", summary="Promotions, refusals, rollbacks", **shared)  # type: ignore[arg-type]
    async def history() -> list[Record]:
        try:
            return await read(nats().jetstream(), design)
        except (NatsError, TimeoutError) as error:
            raise HTTPException(503, "the history is away: ask again") from error
