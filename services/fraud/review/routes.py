"""Routes of the scorer for people: review cases, and read or change the costs."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPBearer
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import BaseModel, ConfigDict, Field

from services.fraud.ingestion.events import ReviewCase, VerdictEvent
from services.fraud.review.live import CostChange, change_costs, in_eur, read_costs
from services.fraud.review.presence import report_person
from services.fraud.review.queue import Lease, LeaseLost, ReviewQueue
from services.platform.runtime.http import error_responses
from services.platform.runtime.tokens import has_bearer_token
from services.platform.settings import Settings

_BEARER = HTTPBearer(
    scheme_name="AnalystToken",
    description="The setting WHITEBOARD_ANALYST_TOKEN; for /admin, WHITEBOARD_ADMIN_TOKEN",
    auto_error=False,
)
_AWAY = (NatsError, OSError, TimeoutError)
_MAX_WAIT_S = 1.0
# The largest case, 200 items of 40 letters from all of Unicode, gives a token of 36,000 characters.
MAX_TOKEN = 60_000
# An analyst's name, in `by`; those without one count as one.
_Analyst = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]


class Problem(BaseModel):
    """What is wrong."""

    detail: str


class NextReview(BaseModel):
    """A case, leased to who asked.

    Attributes:
        token: Proof of the lease, for `POST /reviews/{id}`.
        until: When the lease ends, seconds since the epoch.
        waited_s: From the case's arrival until now.
    """

    case: ReviewCase
    token: str
    until: float
    waited_s: float


class ReviewVerdict(BaseModel):
    """An analyst's verdict on a leased case."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["fraud", "genuine"]
    token: Annotated[str, Field(max_length=MAX_TOKEN, pattern=r"^[!-~]*$")]
    by: _Analyst = "analyst"


class Costs(BaseModel):
    """The present costs, EUR."""

    opex: float
    fee: float
    analyst_minute: float
    analyst_minutes: float
    missed: float
    wrongly_stopped: float


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not UTF-8"},
    401: {"model": Problem, "description": "A bearer token is required"},
    403: {"model": Problem, "description": "No token is set"},
    **error_responses({413: "The body is too large"}),
    503: {"model": Problem, "description": "The stream is unavailable"},
}


def add_reviews(app: FastAPI, config: Settings, nats: Callable[[], Client]) -> None:
    """Add `/reviews/next`, `/reviews/{id}` and `/admin/costs`.

    Args:
        nats: Returns the connection to NATS.
    """
    app.include_router(_review_routes(config.analyst_token.get_secret_value(), nats))
    app.include_router(_cost_routes(config.admin_token.get_secret_value(), nats))


def _review_routes(token: str, nats: Callable[[], Client]) -> APIRouter:
    routes = _router("/reviews", "reviews", token, "WHITEBOARD_ANALYST_TOKEN")

    @routes.get(
        "/next",
        summary="Lease the oldest case",
        responses={204: {"description": "No case waits"}},
        response_model=NextReview,
    )
    async def take(by: _Analyst = "analyst") -> Any:
        try:
            js = nats().jetstream()
            await report_person(js, by)
            queue = await ReviewQueue.open(js)
            try:
                lease = await queue.take(_MAX_WAIT_S)
            finally:
                await queue.close()
        except _AWAY as error:
            raise HTTPException(503, "the review queue is unavailable: retry") from error
        if lease is None:
            return Response(status_code=204)
        return NextReview(
            case=lease.case, token=lease.token(token), until=lease.until, waited_s=lease.waited_s
        )

    lost: dict[int | str, dict[str, Any]] = {
        409: {"model": Problem, "description": "The lease has expired, or the case is decided"}
    }

    @routes.post("/{decision_id}", summary="Decide a leased case", responses=lost)
    async def decide(decision_id: str, body: ReviewVerdict) -> VerdictEvent:
        try:
            lease = Lease.of_token(body.token, token)
            if lease.case.decision_id != decision_id:
                raise LeaseLost("the token is of another case")
            return await ReviewQueue(nats().jetstream()).decide(lease, body.verdict, body.by)
        except LeaseLost as error:
            raise HTTPException(409, str(error)) from error
        except _AWAY as error:
            raise HTTPException(503, "the review queue is unavailable: retry") from error

    return routes


def _cost_routes(token: str, nats: Callable[[], Client]) -> APIRouter:
    routes = _router("/admin", "admin", token, "WHITEBOARD_ADMIN_TOKEN")

    @routes.get("/costs", summary="The present costs, EUR")
    async def show_costs() -> Costs:
        try:
            return Costs(**in_eur(await read_costs(nats().jetstream())))
        except _AWAY as error:
            raise HTTPException(503, "the costs are unavailable: retry") from error

    @routes.post("/costs", summary="Change costs; scorers follow within a second")
    async def post_costs(body: CostChange) -> Costs:
        try:
            _, costs = await change_costs(nats().jetstream(), body)
        except _AWAY as error:
            raise HTTPException(503, "the costs are unavailable: retry") from error
        return Costs(**in_eur(costs))

    return routes


def _router(prefix: str, tag: str, token: str, setting: str) -> APIRouter:
    """A router whose routes need a bearer token; without a setting they are disabled."""

    def authorised(request: Request, _: Annotated[object, Depends(_BEARER)]) -> None:
        if not token:
            raise HTTPException(403, f"no token is set: {setting}")
        if not has_bearer_token(request.headers.get("authorization", ""), token):
            raise HTTPException(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})

    return APIRouter(
        prefix=prefix, tags=[tag], dependencies=[Depends(authorised)], responses=_ERRORS
    )
