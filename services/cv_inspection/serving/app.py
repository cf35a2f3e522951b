"""The inspector's HTTP service: images, the store's notifications, and operators' labels."""

import base64
from enum import StrEnum
from functools import partial
from secrets import compare_digest
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.security import HTTPBearer
from nats.errors import Error as NatsError
from pydantic import BaseModel, ValidationError

from services.cv_inspection.features.mask import run_lengths
from services.cv_inspection.ingestion.events import (
    LABEL,
    ImageRef,
    KeyPart,
    LabelEvent,
    subject_token,
)
from services.cv_inspection.ingestion.images import MAX_BYTES, InvalidImage
from services.cv_inspection.ingestion.labels import UnknownLabel, read_label
from services.cv_inspection.ingestion.notifications import publish_images
from services.cv_inspection.model import ImageModel, ModelFailed, read_model
from services.cv_inspection.problem import CLASSES, DESIGN
from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.serving.inspect import InspectionResult
from services.cv_inspection.serving.inspector import Inspector, QueueFull, open_inspector
from services.platform.runtime.http import (
    BodyTooLarge,
    DirectApp,
    JsonResponse,
    RawRequest,
    error_response,
    error_responses,
)
from services.platform.runtime.tokens import authorization, client_check, has_bearer_token
from services.platform.serving.decision_service import (
    DecisionService,
    counted,
    decision_response,
    no_model,
)
from services.platform.settings import Settings, settings
from services.platform.streaming.messages import validation_message
from services.platform.telemetry import Stages

EXAMPLE_LABEL = {"inspection_id": "808efdcb1218e96f410779d6a218e188", "label": "good"}
EXAMPLE_NOTIFICATION = {
    "Records": [
        {
            "eventName": "ObjectCreated:Put",
            "s3": {
                "bucket": {"name": "inbox"},
                "object": {"key": "line-a/station-1/lot-7/0001.jpg"},
            },
        }
    ]
}


class MaskFormat(StrEnum):
    """Form of the mask in a response."""

    rle = "rle"
    png = "png"
    none = "none"


class InspectionResponse(BaseModel):
    """The inspection of a posted image.

    Attributes:
        audit: Whether the part passes and a person looks at it all the same, to label it.
        novelty: Distance from the good parts of training, in their standard deviations.
        mask_size: (height, width) of the mask, the image's own, after its EXIF orientation.
        boxes: Left, top, right and bottom of each defect, in the image's own pixels.
        mask_rle: Run lengths row by row, zeros first.
        mask_png: The mask as a PNG, base64.
    """

    inspection_id: str
    decision: str
    audit: bool
    reason: str
    label: str
    defect: float
    probabilities: dict[str, float]
    threshold: float
    model: str
    defect_share: float
    novelty: float
    mask_size: tuple[int, int]
    boxes: list[tuple[int, int, int, int]]
    mask_rle: list[int] | None = None
    mask_png: str | None = None


class NotificationAccepted(BaseModel):
    """An accepted notification.

    Attributes:
        taken: Whether it was about new images.
        reason: Why keys of it were refused.
    """

    taken: bool
    reason: str | None = None


class LabelAccepted(BaseModel):
    """An accepted label.

    Attributes:
        seq: Its sequence on the stream.
    """

    seq: int


InspectionService = DecisionService[ImageModel, Inspector]
_BEARER = HTTPBearer(
    scheme_name="StoreToken", description="The setting WHITEBOARD_WEBHOOK_TOKEN", auto_error=False
)

_LABEL_BEARER = HTTPBearer(
    scheme_name="LabelToken", description="The setting WHITEBOARD_LABEL_TOKEN", auto_error=False
)


def create_app(config: Settings | None = None) -> FastAPI:
    """The inspector as an ASGI application."""
    config = config or settings()
    service = DecisionService(config, DESIGN, "inspector", read_model, open_inspector)
    app = service.create_app(
        "Whiteboard: inspector", "Inspects images of parts on a production line.", MAX_BYTES
    )
    documented = app.require_token(client_check(config), INSPECTOR.route, "/invocations")
    _add_inspection(app, service, documented)
    _add_notifications(app, service, config)
    _add_labels(app, service, config)
    return app


def _add_inspection(app: FastAPI, service: InspectionService, dependencies: list[Any]) -> None:
    image = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": dict.fromkeys(("image/jpeg", "image/png"), image)}
    errors = {
        401: "Without the client token, where it is required",
        413: f"More than {MAX_BYTES} bytes",
        500: "The model gives no answer for this image",
        503: "No model is loaded yet, or too many images are waiting",
    }
    documented: dict[str, Any] = {
        "dependencies": dependencies,
        "openapi_extra": {"requestBody": body},
        "responses": {
            200: {"model": InspectionResponse},
            422: {"description": "Not a valid image, or an invalid parameter"},
            **error_responses(errors),
        },
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
        response = _inspect(service.decider, request, image_ref, mask)
        return await counted(request.url.path, response)

    app.post("/inspect", tags=["inspection"], summary="Inspect an image", **documented)(post)
    app.post("/invocations", tags=["SageMaker"], summary="Inspect an image", **documented)(post)


async def _inspect(
    inspector: Inspector, request: Request, image_ref: ImageRef, mask_format: MaskFormat
) -> Response:
    stages = Stages()
    try:
        encode = partial(_response_body, mask_format=mask_format)
        found = await inspector.inspect(await request.body(), image_ref, stages, encode)
    except BodyTooLarge as error:
        return error_response(413, error.detail)
    except InvalidImage as error:
        return error_response(422, f"body: {error}")
    except ModelFailed as error:
        return error_response(500, f"{error}: a person has to inspect the part")
    except QueueFull:
        response = error_response(503, "too many images are waiting: retry")
        response.headers["Retry-After"] = "1"
        return response
    if found is None:
        return no_model("whiteboard train cv --promote")
    event, body = found
    return decision_response(body, event.decision, stages)


def _response_body(result: InspectionResult, mask_format: MaskFormat) -> dict[str, Any]:
    event = result.event
    body: dict[str, Any] = {
        "inspection_id": event.inspection_id,
        "decision": event.decision,
        "audit": event.audit,
        "reason": event.reason,
        "label": event.label,
        "defect": event.defect,
        "probabilities": event.probabilities,
        "threshold": event.threshold,
        "model": event.model,
        "defect_share": event.defect_share,
        "novelty": event.novelty,
        "mask_size": result.mask.shape,
        "boxes": result.boxes,
    }
    if mask_format is MaskFormat.rle:
        body["mask_rle"] = run_lengths(result.mask)
    elif mask_format is MaskFormat.png:
        body["mask_png"] = base64.b64encode(result.mask_png).decode()
    return body


def _add_notifications(app: FastAPI, service: InspectionService, config: Settings) -> None:
    token = config.plain_webhook_token
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": EXAMPLE_NOTIFICATION}
        },
    }
    errors = {
        401: "A bearer token, or user and password, is required",
        413: f"More than {MAX_BYTES} bytes",
        422: "Not a notification",
        503: "The stream is not available",
    }

    @app.post(
        "/events/s3",
        status_code=202,
        tags=["events"],
        summary="Notify of new images, as the store does",
        dependencies=[Depends(_BEARER)],
        openapi_extra={"requestBody": body},
        responses={202: {"model": NotificationAccepted}, **error_responses(errors)},
    )
    async def notification(request: Request) -> Response:
        header = request.headers.get("authorization", "")
        if not has_bearer_token(header, token) and not _has_basic(header, token):
            return error_response(401, "a bearer token is required: the store's webhook has it")
        data = await request.body()
        try:
            published, refused = await publish_images(service.nats, data, config.inbox)
        except ValueError as error:
            return error_response(422, str(error))
        except (NatsError, TimeoutError):
            # The store sends it again; what it gives up on, the reconciliation finds.
            return _stream_unavailable()
        reason = {"reason": "; ".join(refused)} if refused else {}
        return JsonResponse({"taken": published > 0, **reason}, status_code=202)


def _has_basic(header: str, token: str) -> bool:
    """Whether a header has user "store" and the token, as a topic's https://store:token@host."""
    expected = b"Basic " + base64.b64encode(f"store:{token}".encode())
    return bool(token) and compare_digest(header.encode("latin-1"), expected)


def _add_labels(app: DirectApp, service: InspectionService, config: Settings) -> None:
    token = config.plain_label_token
    errors = {
        401: "A bearer token is required",
        404: "No such inspection",
        413: f"More than {MAX_BYTES} bytes",
        422: "Invalid fields, by name, or an unknown class, with the known ones",
        503: "The stream or the lake is not available",
    }

    async def post(request: RawRequest) -> Response:
        if not has_bearer_token(authorization(request.headers), token):
            return error_response(401, "a bearer token is required: labels train models")
        try:
            event = LabelEvent.model_validate_json(request.body)
            model = service.champion.model
            label = read_label(event.label, model.card.classes if model else CLASSES)
        except ValidationError as error:
            return error_response(422, validation_message(error))
        except UnknownLabel as error:
            return error_response(422, str(error))
        data = event.model_copy(update={"label": label}).model_dump_json().encode()
        try:
            js = service.nats.jetstream()
            if not await service.decider.known.holds(event.inspection_id, js):
                return error_response(404, f"inspection_id: no inspection {event.inspection_id}")
            ack = await js.publish(f"{LABEL}.{subject_token(label)}", data)
        except (NatsError, OSError):
            return error_response(503, "the stream or the lake is not available: send it again")
        return JsonResponse({"seq": ack.seq}, status_code=202)

    content = {"application/json": {"example": EXAMPLE_LABEL}}
    app.add_direct(
        "/verdict",
        post,
        LabelEvent,
        status_code=202,
        tags=["events"],
        summary="Label an inspected part",
        dependencies=[Depends(_LABEL_BEARER)],
        openapi_extra={"requestBody": {"content": content}},
        responses={202: {"model": LabelAccepted}, **error_responses(errors)},
    )


def _stream_unavailable() -> Response:
    return error_response(503, "the stream is not available: send it again")
