"""The scorer: `POST /score`, and the service around it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import isnan
from random import getrandbits
from time import perf_counter, time
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import FastAPI, Response
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import Field, ValidationError
from redis.exceptions import RedisError

from features.online import OnlineReader
from features.redis_connection import RedisLink
from features.spec import SEQ, Floats
from services.fraud.features.states import (
    FEATURES,
    GRAPH,
    OWN,
    SETS,
    STATES,
    TABULAR,
    cart_items,
    own_columns,
    vectors,
)
from services.fraud.ingestion.events import (
    DECISION,
    ENTITIES,
    MOST_AHEAD_US,
    Outcome,
    Transaction,
    microseconds,
    shard,
)
from services.platform.models.onnx import Model
from services.platform.models.served_model import Champion
from services.platform.retraining.admin import add_admin
from services.platform.runtime.http import (
    DirectApp,
    JsonResponse,
    Posted,
    add_operations,
    is_synthetic,
    problem,
)
from services.platform.runtime.worker import settle
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.storage.reports import add_reports
from services.platform.streaming.consumer import open_connection
from services.platform.streaming.messages import explain
from services.platform.streaming.outbox import Outbox
from services.platform.telemetry import (
    OUTBOX_DEPTH,
    OUTBOX_DROPPED,
    Stages,
    answered,
    decided,
)

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024
FETCH_BUDGET_S = 0.020
_PROBE_S = 0.5
_SILENT_S = 0.1
EXAMPLE = {
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


@dataclass
class Decision:
    """The answer to one transaction."""

    transaction_id: str
    decision_id: str
    decision: Outcome
    score: Annotated[float, Field(ge=0, le=1, description="Probability of fraud")]
    threshold: float
    model: str
    degraded: Annotated[bool, Field(description="Decided without the online store")]


class Scorer:
    """Decides transactions. It holds the connections; the decision itself does no other I/O."""

    def __init__(
        self, champion: Champion[Model], redis: RedisLink, outbox: Outbox, shards: int
    ) -> None:
        self._champion = champion
        self._redis = redis
        self._reader = OnlineReader(redis, STATES)
        self._reader_with_places = OnlineReader(redis, (*STATES, *GRAPH))
        self._outbox = outbox
        self._shards = shards
        self.redis_up = True
        self._silent_since = 0.0

    async def score(
        self, transaction: Transaction, body: bytes, stages: Stages, synthetic: bool = False
    ) -> Decision | None:
        """Decide one transaction and queue the decision. None while there is no model.

        Args:
            body: The JSON it was validated from: what is logged of it.
            synthetic: See `DecisionEvent`.
        """
        model = self._champion.model
        if model is None:
            return None
        rows = await self._fetch(transaction, wants_places(model))
        stages.mark("fetch")
        degraded = rows is None
        rows = _UNKNOWN if rows is None else rows
        vector = vectors(rows, np.array([own_columns(transaction)]))
        stages.mark("read")
        sets = {"items": cart_items(transaction)} if model.card.sets else {}
        score = float(model.score(vector, sets)[0])
        stages.mark("infer")
        decision = _decide(transaction, model, score, degraded)
        self._publish(transaction, body, decision, vector[0], rows, synthetic)
        stages.mark("encode")
        return decision

    async def connect(self) -> None:
        """Open the first connection now rather than within somebody's request."""
        with suppress(RedisError, OSError):
            await self._redis.open()

    async def watch_redis(self) -> None:
        """While Redis is away, ask for it now and then, off the hot path. Runs until cancelled."""
        while True:
            await asyncio.sleep(_PROBE_S)
            if not self.redis_up:
                with suppress(RedisError, OSError, TimeoutError):
                    await self._redis.ask([("PING",)], _PROBE_S)
                    self.redis_up, self._silent_since = True, 0.0
                    log.warning("redis is back")

    async def _fetch(self, transaction: Transaction, places: bool) -> dict[str, Floats] | None:
        """The rows a transaction needs; None where Redis does not answer in time."""
        if not self.redis_up:
            return None
        try:
            reader = self._reader_with_places if places else self._reader
            keys = {e: getattr(transaction, e) for e in ENTITIES}
            rows = await reader.read(keys, FETCH_BUDGET_S)
            self._silent_since = 0.0
            return rows
        except TimeoutError:
            # One slow answer is not an outage, nor are those that waited beside it; silence is.
            now = perf_counter()
            self._silent_since = self._silent_since or now
            if now - self._silent_since > _SILENT_S:
                self._lose_redis("it does not answer in time")
        except (RedisError, OSError, ValueError) as error:
            self._lose_redis(str(error))
        return None

    def _lose_redis(self, reason: str) -> None:
        log.warning("scoring without the online store: %s", reason)
        self.redis_up = False

    def _publish(
        self,
        transaction: Transaction,
        body: bytes,
        decision: Decision,
        vector: Floats,
        rows: dict[str, Floats],
        synthetic: bool,
    ) -> None:
        """Queue what an audit needs: the vector it saw and the sequence of every row."""
        seqs = {name: _seq(row) for name, row in rows.items()}
        event = {
            **decision.__dict__,
            "synthetic": synthetic,
            "transaction": orjson.Fragment(body),
            "features": vector,
            "seqs": seqs,
        }
        data = orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)
        subject = f"{DECISION}.{shard(transaction.customer_id, self._shards)}"
        self._outbox.put(subject, decision.decision_id, data)


def read_model(data: bytes) -> Model:
    """A model of this design, checked and warm. ModelRefused if the file is none."""
    return Model(data, "fraud", FEATURES, SETS)


def wants_places(model: Model) -> bool:
    """Whether a model needs the parties' places in the graph."""
    return model.width > len(TABULAR)


_UNKNOWN = {state.name: np.full((1, state.width), np.nan) for state in STATES}


def _seq(row: Floats) -> int | None:
    """The sequence of a row (1, width); None for one that was not read."""
    value = row.item(SEQ)
    return None if isnan(value) else int(value)


def _decide(transaction: Transaction, model: Model, score: float, degraded: bool) -> Decision:
    card = model.card
    verdict: Literal["approve", "decline"] = "decline" if score >= card.threshold else "approve"
    return Decision(
        transaction_id=transaction.transaction_id,
        decision_id=f"{getrandbits(128):032x}",
        decision=verdict,
        score=score,
        threshold=card.threshold,
        model=f"{card.candidate}:{card.version}",
        degraded=degraded,
    )


@dataclass
class Running:
    """What a started scorer holds on to."""

    scorer: Scorer
    champion: Champion[Model]
    outbox: Outbox
    redis: RedisLink
    nats: Client


@asynccontextmanager
async def run(config: Settings) -> AsyncIterator[Running]:
    """Open everything the scorer needs, and close it after. NATS may come later."""
    nc, connecting = open_connection(config, "scorer")
    redis = RedisLink(config.redis)
    champion = Champion(config, "fraud", read_model)
    await asyncio.to_thread(champion.load)
    _warm_up()
    settle()
    outbox = Outbox(nc, config.home / "scorer", config.outbox_events, config.outbox_megabytes << 20)
    outbox.start()
    scorer = Scorer(champion, redis, outbox, config.shards)
    await scorer.connect()
    tasks = [
        connecting,
        asyncio.create_task(champion.watch(nc)),
        asyncio.create_task(scorer.watch_redis()),
        asyncio.create_task(_gauges(outbox)),
    ]
    try:
        yield Running(scorer, champion, outbox, redis, nc)
    finally:
        for task in tasks:
            task.cancel()
        await outbox.close()
        redis.close()
        with suppress(NatsError, TimeoutError):
            await nc.close()


def _warm_up() -> None:
    """Load the compiled kernels now rather than within somebody's request."""
    vectors(_UNKNOWN, np.zeros((1, len(OWN))))


async def _gauges(outbox: Outbox) -> None:
    while True:
        OUTBOX_DEPTH.set(outbox.depth)
        OUTBOX_DROPPED.set(outbox.dropped)
        await asyncio.sleep(1.0)


def create_app(config: Settings | None = None) -> FastAPI:
    """The scorer as an ASGI application; it opens its connections when it starts."""
    config = config or settings()
    held: list[Running] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with run(config) as running:
            held.append(running)
            yield
            held.clear()

    def ready() -> dict[str, bool | str | int]:
        if not held:
            return {"started": False}
        state = held[0]
        model = state.champion.model
        return {
            "model": f"{model.card.candidate}:{model.card.version}" if model else False,
            "model_refused": state.champion.refused,
            "redis": "up" if state.scorer.redis_up else "down, answers are degraded",
            "nats": "up" if state.nats.is_connected else "down, decisions wait",
            "outbox_events": state.outbox.depth,
        }

    app = DirectApp(
        MOST_BYTES,
        title="Whiteboard: fraud scorer",
        summary="Decides card transactions before they are authorised.",
        lifespan=lifespan,
    )
    add_operations(app, ready)
    add_reports(app, "fraud", Lake(config))
    add_admin(app, "fraud", config.admin_token.get_secret_value(), lambda: held[0].nats)
    _add_scoring(app, held)
    return app


def _add_scoring(app: DirectApp, held: list[Running]) -> None:
    body = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": Transaction.model_json_schema(),
                    "example": EXAMPLE,
                }
            },
        }
    }
    answers: dict[int | str, dict[str, object]] = {
        200: {"model": Decision},
        413: {"description": f"More than {MOST_BYTES} bytes"},
        422: {"description": "Names each field that is wrong"},
        503: {"description": "No model yet"},
    }

    async def score(posted: Posted) -> Response:
        return await _answer(held[0].scorer, posted)

    documented: dict[str, Any] = {"openapi_extra": body, "responses": answers}
    app.add_direct("/score", score, tags=["scoring"], summary="Score a transaction", **documented)
    app.add_direct("/invocations", score, tags=["SageMaker"], summary="The same", **documented)


async def _answer(scorer: Scorer, posted: Posted) -> Response:
    begin = perf_counter()
    response = await _score(scorer, posted)
    answered(posted.path, response.status_code, perf_counter() - begin)
    return response


async def _score(scorer: Scorer, posted: Posted) -> Response:
    stages = Stages()
    try:
        transaction = Transaction.model_validate_json(posted.body)
    except ValidationError as error:
        return problem(422, explain(error))
    if microseconds(transaction.event_time) > time() * 1e6 + MOST_AHEAD_US:
        # The stream would put it aside: see `ingestion.parse`.
        return problem(422, "event_time: more than a day ahead of the clock")
    stages.mark("validate")
    synthetic = is_synthetic(posted.headers)
    decision = await scorer.score(transaction, posted.body, stages, synthetic)
    if decision is None:
        return problem(503, "no model is loaded yet: `whiteboard train fraud` makes one")
    decided(decision.decision, decision.degraded)
    stages.observe()
    return JsonResponse(decision.__dict__, headers={"Server-Timing": stages.header()})
