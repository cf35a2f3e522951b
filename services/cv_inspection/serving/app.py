"""The inspector: `POST /inspect`, the store's notifications, and operators' labels."""

import asyncio
import base64
import hashlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import BaseModel, ValidationError

from services.cv_inspection.ingestion.events import (
    DEAD,
    IMAGE,
    INSPECTION,
    MOST_BYTES,
    VERDICT,
    BadImage,
    ImageEvent,
    InspectionEvent,
    Place,
    Token,
    VerdictEvent,
    image_keys,
)
from services.cv_inspection.serving.inspect import Inspected, inspect, run_lengths
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.served_model import Champion
from services.platform.retraining.admin import add_admin
from services.platform.runtime.http import (
    BodyTooLarge,
    JsonResponse,
    LimitBody,
    add_operations,
    bears,
    problem,
)
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

_THREADS = 2
# Pictures waiting beyond those being looked at; at 10 ms each, what the budget has room for.
_MOST_WAITING = 8


class MaskForm(StrEnum):
    """How an answer carries the mask."""

    rle = "rle"
    png = "png"
    none = "none"


class Answer(BaseModel):
    """What was seen on a posted picture.

    Attributes:
        mask_size: Side of the square mask. mask_rle: Run lengths row by row, zeros first.
        mask_png: The mask as a PNG, base64.
    """

    inspection_id: str
    decision: str
    reason: str
    label: str
    defect: float
    probabilities: dict[str, float]
    threshold: float
    model: str
    defect_share: float
    mask_size: int
    mask_rle: list[int] | None = None
    mask_png: str | None = None


class Busy(RuntimeError):
    """More pictures wait than can be looked at in time."""


class Inspector:
    """Looks at posted pictures. It holds the connections; the look itself does no other I/O."""

    def __init__(self, champion: Champion[ImageModel], outbox: Outbox) -> None:
        self._champion = champion
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="inspect")
        self._inside = 0

    async def inspect(self, data: bytes, place: Place, stages: Stages) -> Inspected | None:
        """Look at one picture and queue what was seen. None while there is no model.

        Raises:
            BadImage: it is no picture we judge. Busy: too many are waiting.
        """
        model = self._champion.model
        if model is None:
            return None
        if self._inside >= _THREADS + _MOST_WAITING:
            raise Busy
        self._inside += 1
        try:
            loop = asyncio.get_running_loop()
            begin = perf_counter()
            seen = await loop.run_in_executor(
                self._pool, inspect, model, data, place, datetime.now(UTC)
            )
        finally:
            self._inside -= 1
        waited = perf_counter() - begin - sum(seen.stages.values())
        stages.add({"wait": waited, **seen.stages})
        self.publish(seen.event)
        stages.mark("encode")
        return seen

    def publish(self, event: InspectionEvent) -> None:
        """Queue what was seen."""
        subject = f"{INSPECTION}.{event.place.line}"
        self._outbox.put(subject, event.inspection_id, event.model_dump_json().encode())

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class Running:
    """What a started inspector holds on to."""

    inspector: Inspector
    champion: Champion[ImageModel]
    outbox: Outbox
    nats: Client


@asynccontextmanager
async def run(config: Settings) -> AsyncIterator[Running]:
    """Open everything the inspector needs, and close it after. NATS may come later."""
    nc, connecting = open_connection(config, "inspector")
    champion = Champion(config, DESIGN, read_model)
    await asyncio.to_thread(champion.load)
    most_bytes = config.outbox_megabytes << 20
    outbox = Outbox(nc, config.home / "inspector", config.outbox_events, most_bytes)
    outbox.start()
    inspector = Inspector(champion, outbox)
    tasks = [
        connecting,
        asyncio.create_task(champion.watch(nc)),
        asyncio.create_task(_gauges(outbox)),
    ]
    try:
        yield Running(inspector, champion, outbox, nc)
    finally:
        for task in tasks:
            task.cancel()
        inspector.close()
        await outbox.close()
        with suppress(NatsError, TimeoutError):
            await nc.close()


async def _gauges(outbox: Outbox) -> None:
    while True:
        OUTBOX_DEPTH.set(outbox.depth)
        OUTBOX_DROPPED.set(outbox.dropped)
        await asyncio.sleep(1.0)


def create_app(config: Settings | None = None) -> FastAPI:
    """The inspector as an ASGI application; it opens its connections when it starts."""
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
            "nats": "up" if state.nats.is_connected else "down, inspections wait",
            "outbox_events": state.outbox.depth,
        }

    app = FastAPI(
        title="Whiteboard: inspector",
        summary="Judges pictures of parts before they go on.",
        lifespan=lifespan,
    )
    app.add_middleware(LimitBody, most=MOST_BYTES)
    add_operations(app, ready)
    add_reports(app, DESIGN, Lake(config))
    add_admin(app, DESIGN, config.admin_token.get_secret_value(), lambda: held[0].nats)
    _add_inspecting(app, held)
    _add_events(app, config, held)
    return app


def _add_inspecting(app: FastAPI, held: list[Running]) -> None:
    picture = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(("image/jpeg", "image/png"), picture),
        }
    }
    answers: dict[int | str, dict[str, object]] = {
        200: {"model": Answer},
        413: {"description": f"More than {MOST_BYTES} bytes"},
        422: {"description": "Says why it is no picture we judge"},
        503: {"description": "No model yet, or too many pictures wait"},
    }

    async def post(
        request: Request,
        line: Annotated[Token, Query()] = "posted",
        station: Annotated[Token, Query()] = "posted",
        lot: Annotated[Token, Query()] = "posted",
        frame: Annotated[Token, Query()] = "posted",
        mask: Annotated[MaskForm, Query()] = MaskForm.rle,
    ) -> Response:
        place = Place(line=line, station=station, lot=lot, frame=frame)
        return await _answer(held[0].inspector, request, place, mask)

    documented: dict[str, Any] = {"openapi_extra": body, "responses": answers}
    app.post("/inspect", tags=["inspecting"], summary="Inspect one picture", **documented)(post)
    app.post("/invocations", tags=["SageMaker"], summary="The same", **documented)(post)


async def _answer(inspector: Inspector, request: Request, place: Place, form: MaskForm) -> Response:
    route = request.url.path
    begin = perf_counter()
    response = await _inspect(inspector, request, place, form)
    answered(route, response.status_code, perf_counter() - begin)
    return response


async def _inspect(
    inspector: Inspector, request: Request, place: Place, form: MaskForm
) -> Response:
    stages = Stages()
    try:
        seen = await inspector.inspect(await request.body(), place, stages)
    except BodyTooLarge:
        return problem(413, f"body: more than {MOST_BYTES} bytes")
    except BadImage as error:
        return problem(422, f"body: {error}")
    except Busy:
        refusal = problem(503, "too many pictures are waiting: ask again")
        refusal.headers["Retry-After"] = "1"
        return refusal
    if seen is None:
        return problem(503, "no model is loaded yet: `whiteboard train cv --promote` makes one")
    decided(seen.event.decision)
    stages.observe()
    return JsonResponse(_body(seen, form), headers={"Server-Timing": stages.header()})


def _body(seen: Inspected, form: MaskForm) -> dict[str, Any]:
    event = seen.event
    answer: dict[str, Any] = {
        "inspection_id": event.inspection_id,
        "decision": event.decision,
        "reason": event.reason,
        "label": event.label,
        "defect": event.defect,
        "probabilities": event.probabilities,
        "threshold": event.threshold,
        "model": event.model,
        "defect_share": event.defect_share,
        "mask_size": len(seen.mask),
    }
    if form is MaskForm.rle:
        answer["mask_rle"] = run_lengths(seen.mask)
    elif form is MaskForm.png:
        answer["mask_png"] = base64.b64encode(seen.mask_png).decode()
    return answer


def _add_events(app: FastAPI, config: Settings, held: list[Running]) -> None:
    token = config.password.get_secret_value()

    @app.post("/events/s3", status_code=202, tags=["events"], summary="The store's notice")
    async def notice(request: Request) -> Response:
        if not bears(request.headers.get("authorization", ""), token):
            return problem(401, "a bearer token is needed: the store's webhook has it")
        data = await request.body()
        try:
            return await _take_notice(held[0].nats, data, config.inbox)
        except ValueError as error:
            return problem(422, str(error))
        except (NatsError, TimeoutError):
            # The store asks again; what it gives up on, the reconciliation finds.
            return problem(503, "the stream is away: tell again")

    @app.post("/verdict", status_code=202, tags=["events"], summary="What a person found")
    async def verdict(request: Request) -> Response:
        try:
            told = VerdictEvent.model_validate_json(await request.body())
        except ValidationError as error:
            return problem(422, explain(error))
        try:
            ack = (
                await held[0]
                .nats.jetstream()
                .publish(f"{VERDICT}.{told.label}", told.model_dump_json().encode())
            )
        except (NatsError, TimeoutError):
            return problem(503, "the stream is away: tell again")
        return JsonResponse({"seq": ack.seq}, status_code=202)


async def _take_notice(nc: Client, data: bytes, inbox: str) -> Response:
    """Put a notice's pictures on the stream; a key that is no place goes to the dead letters."""
    refused = []
    keys = image_keys(data, inbox)
    for key in keys:
        # The same notice told twice is one event; the same place filled anew is another.
        identity = hashlib.sha256(data + key.encode()).hexdigest()[:32]
        try:
            line = Place.of(key).line
        except ValueError as error:
            log.warning("%s", error)
            headers = {"Nats-Msg-Id": identity, "Reason": str(error)[:500]}
            await nc.jetstream().publish(f"{DEAD}.events", data, headers=headers)
            refused.append(str(error))
            continue
        await publish_image(nc, key, line, identity)
    told = {"reason": "; ".join(refused)} if refused else {}
    return JsonResponse({"taken": len(keys) > len(refused), **told}, status_code=202)


async def publish_image(nc: Client, key: str, line: str, identity: str) -> None:
    """Put an image's event on the stream. nats.errors.Error if it did not take it."""
    event = ImageEvent(key=key).model_dump_json().encode()
    headers = {"Nats-Msg-Id": identity}
    await nc.jetstream().publish(f"{IMAGE}.{line}", event, headers=headers)
