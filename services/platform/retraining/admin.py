"""Admin routes of a service: request a swap, a rollback or a retraining, and read the history.

The service only publishes a command on the control stream; the scheduler, which has the training
libraries, executes it. The routes are disabled unless a token is set.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBearer
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import BaseModel, ConfigDict, Field

from services.platform.models.promotion_log import PromotionRecord, read_history
from services.platform.retraining.commands import Command, control_subject
from services.platform.runtime.http import error_responses
from services.platform.runtime.tokens import has_bearer_token

_BEARER = HTTPBearer(
    scheme_name="AdminToken", description="The setting WHITEBOARD_ADMIN_TOKEN", auto_error=False
)


class SwapRequest(BaseModel):
    """The candidate that challenges the champion."""

    model_config = ConfigDict(extra="forbid")

    candidate: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


class RollbackRequest(BaseModel):
    """Why the champion is rolled back."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=200)] = "by order"


class CommandAccepted(BaseModel):
    """An accepted command; its result appears in the history.

    Attributes:
        order: Its sequence on the control stream.
    """

    order: int


class Refusal(BaseModel):
    """Why a command was refused."""

    detail: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "A bearer token is required"},
    403: {"model": Refusal, "description": "No admin token is set"},
    503: {"model": Refusal, "description": "The stream is unavailable"},
}
_BODY_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body is not UTF-8"},
    **error_responses({413: "The body is too large"}),
}


def add_admin(app: FastAPI, design: str, token: str, nats: Callable[[], Client]) -> None:
    """Add `/admin/swap`, `/admin/rollback`, `/admin/night` and `/admin/history`.

    Args:
        token: The bearer token; empty: every request is refused.
        nats: Returns the connection to publish on.
    """

    # The scheme is for the documentation; any header is compared as it was sent.
    def authorised(request: Request, _: Annotated[object, Depends(_BEARER)]) -> None:
        if not token:
            raise HTTPException(403, "no admin token is set: WHITEBOARD_ADMIN_TOKEN")
        if not has_bearer_token(request.headers.get("authorization", ""), token):
            raise HTTPException(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})

    async def publish(command: Command) -> CommandAccepted:
        try:
            js = nats().jetstream()
            ack = await js.publish(control_subject(design), command.model_dump_json().encode())
        except (NatsError, TimeoutError) as error:
            raise HTTPException(503, "the control stream is unavailable: retry") from error
        return CommandAccepted(order=ack.seq)

    router = APIRouter(
        prefix="/admin", tags=["admin"], dependencies=[Depends(authorised)], responses=_ERRORS
    )

    @router.post("/swap", status_code=202, summary="Enter a challenger", responses=_BODY_ERRORS)
    async def swap(body: SwapRequest) -> CommandAccepted:
        return await publish(Command(verb="swap", candidate=body.candidate))

    @router.post(
        "/rollback",
        status_code=202,
        summary="Roll back to the previous champion",
        responses=_BODY_ERRORS,
    )
    async def rollback(body: RollbackRequest) -> CommandAccepted:
        return await publish(Command(verb="rollback", reason=body.reason))

    @router.post("/night", status_code=202, summary="Run the nightly retraining")
    async def night() -> CommandAccepted:
        return await publish(Command(verb="night"))

    @router.get("/history", summary="History of promotions, refusals and rollbacks")
    async def history() -> list[PromotionRecord]:
        try:
            return await read_history(nats().jetstream(), design)
        except (NatsError, TimeoutError) as error:
            raise HTTPException(503, "the history is unavailable: retry") from error

    app.include_router(router)
