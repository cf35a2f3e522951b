"""The HTTP routes of the scorer: `POST /score`, health, metrics, reports and admin."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter, time
from typing import Any

from fastapi import FastAPI, Response
from pydantic import ValidationError

from services.fraud.ingestion.events import (
    MAX_AHEAD_US,
    Transaction,
    microseconds,
)
from services.fraud.serving.scorer import Decision, RunningScorer, Scorer, run
from services.platform.retraining.admin import add_admin
from services.platform.runtime.http import (
    DirectApp,
    JsonResponse,
    RawRequest,
    add_operations,
    error_response,
    is_synthetic,
)
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.storage.reports import add_reports
from services.platform.streaming.messages import validation_message
from services.platform.telemetry import (
    Stages,
    count_decision,
    count_request,
)

MAX_BYTES = 64 * 1024
EXAMPLE_TRANSACTION = {
    "transaction_id": "example-1",
    "event_time": "2022-05-01T12:30:00Z",
    "customer_id": "c42",
    "merchant_id": "m7",
    "device_id": "d126",
    "ip": "10.1.2.3",
    "amount_minor": 4599,
    "currency": "EUR",
    "cart": [
        {"category": "shoes", "price_minor": 3999},
        {"category": "bag", "price_minor": 600},
    ],
}


def create_app(config: Settings | None = None) -> FastAPI:
    """The scorer as an ASGI application; it opens its connections at startup."""
    config = config or settings()
    started: list[RunningScorer] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with run(config) as running:
            started.append(running)
            yield
            started.clear()

    def ready() -> dict[str, bool | str | int]:
        if not started:
            return {"started": False}
        state = started[0]
        model = state.champion.model
        return {
            "model": model.card.label if model else False,
            "model_refused": state.champion.refused,
            "redis": "up" if state.scorer.redis_up else "down, answers are degraded",
            "nats": "up" if state.nats.is_connected else "down, decisions wait",
            "outbox_events": state.outbox.depth,
        }

    app = DirectApp(
        MAX_BYTES,
        title="Whiteboard: fraud scorer",
        summary="Decides card transactions before they are authorised.",
        lifespan=lifespan,
    )
    add_operations(app, ready)
    add_reports(app, "fraud", Lake(config))
    add_admin(app, "fraud", config.admin_token.get_secret_value(), lambda: started[0].nats)
    _add_scoring(app, started)
    return app


def _add_scoring(app: DirectApp, started: list[RunningScorer]) -> None:
    body = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": Transaction.model_json_schema(),
                    "example": EXAMPLE_TRANSACTION,
                }
            },
        }
    }
    responses: dict[int | str, dict[str, object]] = {
        200: {"model": Decision},
        413: {"description": f"More than {MAX_BYTES} bytes"},
        422: {"description": "Invalid fields, by name"},
        503: {"description": "No model is loaded yet"},
    }

    async def score(request: RawRequest) -> Response:
        return await _answer(started[0].scorer, request)

    documented: dict[str, Any] = {"openapi_extra": body, "responses": responses}
    app.add_direct("/score", score, tags=["scoring"], summary="Score a transaction", **documented)
    app.add_direct(
        "/invocations", score, tags=["SageMaker"], summary="Score a transaction", **documented
    )


async def _answer(scorer: Scorer, request: RawRequest) -> Response:
    begin = perf_counter()
    response = await _score(scorer, request)
    count_request(request.path, response.status_code, perf_counter() - begin)
    return response


async def _score(scorer: Scorer, request: RawRequest) -> Response:
    stages = Stages()
    try:
        transaction = Transaction.model_validate_json(request.body)
    except ValidationError as error:
        return error_response(422, validation_message(error))
    if microseconds(transaction.event_time) > time() * 1e6 + MAX_AHEAD_US:
        # The workers would refuse its event: see `ingestion.events.parse_event`.
        return error_response(422, "event_time: more than a day ahead of the clock")
    stages.mark("validate")
    synthetic = is_synthetic(request.headers)
    decision = await scorer.score(transaction, request.body, stages, synthetic)
    if decision is None:
        return error_response(503, "no model is loaded yet: `whiteboard train fraud` makes one")
    count_decision(decision.decision, decision.degraded)
    stages.observe()
    return JsonResponse(decision.__dict__, headers={"Server-Timing": stages.header()})
