"""The scorer's HTTP service: `POST /score` in the shell of a decision service."""

from functools import partial
from time import time
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Response
from nats.errors import Error as NatsError
from pydantic import ValidationError

from services.fraud.ingestion.events import (
    MAX_AHEAD_US,
    Transaction,
    microseconds,
)
from services.fraud.model import FraudModel, read_model
from services.fraud.problem import DESIGN
from services.fraud.reasons.report import fetch
from services.fraud.review.routes import add_reviews
from services.fraud.service import SCORER
from services.fraud.serving.lifespan import open_scorer
from services.fraud.serving.scorer import Decision, ExplainedDecision, Scorer
from services.platform.runtime.http import (
    DirectApp,
    JsonResponse,
    RawRequest,
    error_response,
    error_responses,
)
from services.platform.runtime.tokens import (
    authorization,
    client_check,
    has_bearer_token,
    is_synthetic,
)
from services.platform.serving.decision_service import (
    DecisionService,
    counted,
    decision_response,
    no_model,
)
from services.platform.settings import Settings, settings
from services.platform.streaming.messages import validation_message
from services.platform.telemetry import Stages

MAX_BYTES = 64 * 1024
_REASONS = {
    "name": "reasons",
    "in": "query",
    "description": "Return the reasons too, at a millisecond or two",
    "schema": {"type": "boolean", "default": False},
}
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
    """The scorer as an ASGI application."""
    config = config or settings()
    open_decider = partial(open_scorer, nats=lambda: service.nats)
    service: DecisionService[FraudModel, Scorer] = DecisionService(
        config, DESIGN, "scorer", read_model, open_decider
    )
    app = service.create_app(
        "Whiteboard: fraud scorer",
        "Decides card transactions before they are authorised.",
        MAX_BYTES,
    )
    paths = SCORER.route, "/invocations", "/decisions/"
    dependencies = app.require_token(client_check(config), *paths)
    _add_scoring(app, service, config.plain_label_token, dependencies)
    _add_decisions(app, service, dependencies)
    add_reviews(app, config, lambda: service.nats)
    return app


def _add_scoring(
    app: DirectApp,
    service: DecisionService[FraudModel, Scorer],
    load_token: str,
    dependencies: list[Any],
) -> None:
    content = {"application/json": {"example": EXAMPLE_TRANSACTION}}
    errors = {
        401: "No client token, where one is required; or a load test's mark without its own",
        413: f"More than {MAX_BYTES} bytes",
        422: "Invalid fields, by name",
        503: "No model is loaded yet",
    }
    documented: dict[str, Any] = {
        "summary": "Score a transaction",
        "dependencies": dependencies,
        "openapi_extra": {"requestBody": {"content": content}, "parameters": [_REASONS]},
        "responses": {200: {"model": Decision | ExplainedDecision}, **error_responses(errors)},
    }

    async def score(request: RawRequest) -> Response:
        return await counted(request.path, _score(service.decider, request, load_token))

    app.add_direct("/score", score, Transaction, tags=["scoring"], **documented)
    app.add_direct("/invocations", score, Transaction, tags=["SageMaker"], **documented)


def _add_decisions(
    app: DirectApp, service: DecisionService[FraudModel, Scorer], dependencies: list[Any]
) -> None:
    errors = error_responses(
        {
            401: "Without the client token, where it is required",
            404: "No such decline or review",
            503: "NATS does not answer",
        }
    )

    @app.get(
        "/decisions/{decision_id}",
        tags=["reasons"],
        summary="A decline or review with its reasons",
        dependencies=dependencies,
        responses=errors,
    )
    async def decision(decision_id: str) -> Response:
        if not service.nats.is_connected:
            return error_response(503, "NATS is away: reasons are kept there")
        try:
            report = await fetch(service.nats.jetstream(), decision_id)
        except (NatsError, OSError, TimeoutError) as error:
            return error_response(503, f"NATS does not answer: {error}")
        if report is None:
            known = "declines and reviews have reasons, within a second"
            return error_response(404, f"no reasons for decision {decision_id[:64]!r}: {known}")
        return JsonResponse(report)


async def _score(scorer: Scorer, request: RawRequest, load_token: str) -> Response:
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
    if synthetic and not has_bearer_token(authorization(request.headers), load_token):
        return error_response(401, "synthetic_request: the mark of a load test needs its token")
    try:
        explained = _wants_reasons(request.query) if request.query else False
    except ValueError as error:
        return error_response(422, str(error))
    decision = await scorer.score(transaction, request.body, stages, synthetic, explained)
    if decision is None:
        return no_model("whiteboard train fraud")
    return decision_response(decision.__dict__, decision.decision, stages, decision.degraded)


def _wants_reasons(query: bytes) -> bool:
    """Whether a query string asks for reasons. ValueError: it says neither true nor false.

    >>> _wants_reasons(b"reasons=true"), _wants_reasons(b"other=%C3%91")
    (True, False)
    """
    said = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("reasons", ["false"])
    if said not in (["true"], ["false"]):
        raise ValueError("reasons: true or false, once")
    return said == ["true"]
