"""The inspector: `POST /inspect`, the store's notifications, and operators' labels."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from nats.errors import Error as NatsError
from pydantic import BaseModel, ValidationError

from services.cv_inspection.ingestion.events import LABEL, ImageRef, KeyPart, LabelEvent
from services.cv_inspection.ingestion.images import MAX_BYTES, InvalidImage
from services.cv_inspection.ingestion.notifications import publish_images
from services.cv_inspection.serving.inspect import InspectionResult, run_lengths
from services.cv_inspection.serving.inspector import (
    Inspector,
    InspectorProcess,
    QueueFull,
    open_inspector,
)
from services.cv_inspection.serving.model import DESIGN
from services.platform.retraining.admin import add_admin
from services.platform.runtime.http import (
    BodyTooLarge,
    JsonResponse,
    LimitBody,
    add_operations,
    error_response,
    has_bearer_token,
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


class MaskFormat(StrEnum):
    """Form of the mask in a response."""

    rle = "rle"
    png = "png"
    none = "none"


class InspectionResponse(BaseModel):
    """The inspection of a posted image.

    Attributes:
        mask_size: Side of the square mask, pixels.
        mask_rle: Run lengths row by row, zeros first.
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


def create_app(config: Settings | None = None) -> FastAPI:
    """The inspector as an ASGI application; it opens its connections when it starts."""
    config = config or settings()
    running: list[InspectorProcess] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with open_inspector(config) as process:
            running.append(process)
            yield
            running.clear()

    def ready() -> dict[str, bool | str | int]:
        if not running:
            return {"started": False}
        state = running[0]
        model = state.champion.model
        return {
            "model": model.card.label if model else False,
            "model_refused": state.champion.refused,
            "nats": "up" if state.nats.is_connected else "down, inspections wait",
            "outbox_events": state.outbox.depth,
        }

    app = FastAPI(
        title="Whiteboard: inspector",
        summary="Inspects images of parts on a production line.",
        lifespan=lifespan,
    )
    app.add_middleware(LimitBody, max_bytes=MAX_BYTES)
    add_operations(app, ready)
    add_reports(app, DESIGN, Lake(config))
    add_admin(app, DESIGN, config.admin_token.get_secret_value(), lambda: running[0].nats)
    _add_inspection(app, running)
    _add_events(app, config, running)
    return app


def _add_inspection(app: FastAPI, running: list[InspectorProcess]) -> None:
    image = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(("image/jpeg", "image/png"), image),
        }
    }
    responses: dict[int | str, dict[str, object]] = {
        200: {"model": InspectionResponse},
        413: {"description": f"More than {MAX_BYTES} bytes"},
        422: {"description": "Not a valid image; the message says why"},
        503: {"description": "No model yet, or too many images are waiting"},
    }

    async def post(
        request: Request,
        line: Annotated[KeyPart, Query()] = "posted",
        station: Annotated[KeyPart, Query()] = "posted",
        lot: Annotated[KeyPart, Query()] = "posted",
        frame: Annotated[KeyPart, Query()] = "posted",
        mask: Annotated[MaskFormat, Query()] = MaskFormat.rle,
    ) -> Response:
        image_ref = ImageRef(line=line, station=station, lot=lot, frame=frame)
        return await _answer(running[0].inspector, request, image_ref, mask)

    documented: dict[str, Any] = {"openapi_extra": body, "responses": responses}
    app.post("/inspect", tags=["inspection"], summary="Inspect one image", **documented)(post)
    app.post("/invocations", tags=["SageMaker"], summary="Same as /inspect", **documented)(post)


async def _answer(
    inspector: Inspector, request: Request, image_ref: ImageRef, mask_format: MaskFormat
) -> Response:
    route = request.url.path
    begin = perf_counter()
    response = await _inspect(inspector, request, image_ref, mask_format)
    count_request(route, response.status_code, perf_counter() - begin)
    return response


async def _inspect(
    inspector: Inspector, request: Request, image_ref: ImageRef, mask_format: MaskFormat
) -> Response:
    stages = Stages()
    try:
        result = await inspector.inspect(await request.body(), image_ref, stages)
    except BodyTooLarge:
        return error_response(413, f"body: more than {MAX_BYTES} bytes")
    except InvalidImage as error:
        return error_response(422, f"body: {error}")
    except QueueFull:
        response = error_response(503, "too many images are waiting: retry")
        response.headers["Retry-After"] = "1"
        return response
    if result is None:
        return error_response(
            503, "no model is loaded yet: `whiteboard train cv --promote` makes one"
        )
    count_decision(result.event.decision)
    stages.observe()
    return JsonResponse(
        _response_body(result, mask_format), headers={"Server-Timing": stages.header()}
    )


def _response_body(result: InspectionResult, mask_format: MaskFormat) -> dict[str, Any]:
    event = result.event
    body: dict[str, Any] = {
        "inspection_id": event.inspection_id,
        "decision": event.decision,
        "reason": event.reason,
        "label": event.label,
        "defect": event.defect,
        "probabilities": event.probabilities,
        "threshold": event.threshold,
        "model": event.model,
        "defect_share": event.defect_share,
        "mask_size": len(result.mask),
    }
    if mask_format is MaskFormat.rle:
        body["mask_rle"] = run_lengths(result.mask)
    elif mask_format is MaskFormat.png:
        body["mask_png"] = base64.b64encode(result.mask_png).decode()
    return body


def _add_events(app: FastAPI, config: Settings, running: list[InspectorProcess]) -> None:
    token = config.password.get_secret_value()

    @app.post("/events/s3", status_code=202, tags=["events"], summary="A notification of the store")
    async def notification(request: Request) -> Response:
        if not has_bearer_token(request.headers.get("authorization", ""), token):
            return error_response(401, "a bearer token is required: the store's webhook has it")
        data = await request.body()
        try:
            published, refused = await publish_images(running[0].nats, data, config.inbox)
        except ValueError as error:
            return error_response(422, str(error))
        except (NatsError, TimeoutError):
            # The store sends it again; what it gives up on, the reconciliation finds.
            return error_response(503, "the stream is not available: send it again")
        reason = {"reason": "; ".join(refused)} if refused else {}
        return JsonResponse({"taken": published > 0, **reason}, status_code=202)

    @app.post(
        "/verdict",
        status_code=202,
        tags=["events"],
        summary="An operator's label",
    )
    async def label(request: Request) -> Response:
        try:
            event = LabelEvent.model_validate_json(await request.body())
        except ValidationError as error:
            return error_response(422, validation_message(error))
        try:
            ack = (
                await running[0]
                .nats.jetstream()
                .publish(f"{LABEL}.{event.label}", event.model_dump_json().encode())
            )
        except (NatsError, TimeoutError):
            return error_response(503, "the stream is not available: send it again")
        return JsonResponse({"seq": ack.seq}, status_code=202)
