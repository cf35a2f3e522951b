"""Images, inspections and labels as events: fields, subjects, the store's notifications."""

import hashlib
import io
import re
import warnings
from datetime import datetime
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote_plus

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError
from pydantic import (
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from services.cv_inspection.problem import GOOD
from services.platform.streaming.consumer import Delivered
from services.platform.streaming.messages import explain

STREAM, DECISIONS_STREAM, DEAD_STREAM = "CV", "CV_DECISIONS", "CV_DEAD"
IMAGE, VERDICT, INSPECTION, DEAD = "cv.image", "cv.verdict", "cv.inspection", "cv.dead"
STREAMS = {
    STREAM: [f"{IMAGE}.>", f"{VERDICT}.>"],
    DECISIONS_STREAM: [f"{INSPECTION}.>"],
    DEAD_STREAM: [f"{DEAD}.>"],
}

MOST_BYTES = 16 << 20
MOST_PIXELS = 25_000_000
LEAST_SIDE = 32
_FORMATS = ("JPEG", "PNG")
_KEY = re.compile(
    r"(?P<line>[A-Za-z0-9_-]{1,40})/(?P<station>[A-Za-z0-9_-]{1,40})/"
    r"(?P<lot>[A-Za-z0-9_-]{1,40})/(?P<frame>[A-Za-z0-9_-]{1,80})\.(?:jpg|jpeg|png)"
)

Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}$")]


class BadImage(ValueError):
    """A file that is no picture we judge; the message says why."""


class Strict(BaseModel):
    """A message of which every field is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=Strict)


class Place(Strict):
    """Where a picture was taken: the parts of its key."""

    line: Token
    station: Token
    lot: Token
    frame: Token

    @classmethod
    def of(cls, key: str) -> "Place":
        """Read a key below the inbox. ValueError says what it should look like."""
        found = _KEY.fullmatch(key)
        if found is None:
            raise ValueError(f"key {key[:120]!r} is not <line>/<station>/<lot>/<frame>.jpg")
        return cls(**found.groupdict())

    @property
    def stem(self) -> str:
        """What results are kept under."""
        return f"{self.line}/{self.station}/{self.lot}/{self.frame}"


class ImageEvent(Strict):
    """An image landed. `key` lies below the inbox, with its extension."""

    key: Annotated[str, Field(max_length=300)]


class Quality(Strict):
    """What the picture itself is like: see `features.quality`."""

    brightness: float
    contrast: float
    sharpness: float
    clipped: float


Outcome = Literal["pass", "reject", "review"]


class InspectionEvent(Strict):
    """What was seen on one picture, and what was decided.

    Attributes:
        inspection_id: Known by the picture's place and content, so the same picture has the same
            whenever it is looked at. key: None for one that was posted.
        at: When its event was taken, or it was posted, UTC.
        label: The likeliest class. defect: Probability of any defect. probabilities: By class.
        reason: Why it is to be looked at again, empty otherwise.
        defect_share: Share of the picture that the mask covers.
        mask_key: Where the mask is below `results`, None for one that was posted.
    """

    inspection_id: str
    key: str | None
    place: Place
    at: datetime
    label: str
    defect: float
    probabilities: dict[str, float]
    decision: Outcome
    reason: str
    threshold: float
    model: str
    defect_share: float
    quality: Quality
    mask_key: str | None

    @property
    def stopped(self) -> bool:
        """Whether the part does not go on by itself."""
        return self.decision != "pass"


class VerdictEvent(Strict):
    """What a person found: the class of a part, `good` or a defect's."""

    inspection_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    label: Token
    by: Annotated[str, Field(max_length=40)] = "operator"

    @property
    def defect(self) -> bool:
        """Whether there is a defect."""
        return self.label != GOOD


def inspection_id(place: Place, data: bytes) -> str:
    """The identity of a picture's inspection: its place and its bytes."""
    return hashlib.sha256(place.stem.encode() + b"\0" + data).hexdigest()[:32]


class StoreNotice(BaseModel):
    """SeaweedFS's own notice; `key` is `/buckets/<bucket>/<key>`."""

    key: str
    event_type: str = ""
    # Folders are told of, too.
    is_folder: Annotated[
        bool, Field(validation_alias=AliasPath("message", "new_entry", "is_directory"))
    ] = False


class S3Record(BaseModel):
    """One object of an S3 event notification, its key URL-encoded."""

    event: Annotated[str, Field(validation_alias="eventName")]
    bucket: Annotated[str, Field(validation_alias=AliasPath("s3", "bucket", "name"))]
    key: Annotated[str, Field(validation_alias=AliasPath("s3", "object", "key"))]


class S3Notice(BaseModel):
    """An S3 event notification.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """

    records: Annotated[list[S3Record], Field(validation_alias="Records", min_length=1)]


_NOTICE: TypeAdapter[StoreNotice | S3Notice] = TypeAdapter(StoreNotice | S3Notice)


def image_keys(notice: bytes, inbox: str) -> list[str]:
    """Keys below bucket `inbox` that a store's notice says were put; none if it is another matter.

    Raises:
        ValueError: it is no notice.
    """
    try:
        told = _NOTICE.validate_json(notice)
    except ValidationError as error:
        raise ValueError(f"no notice of a store: {explain(error)}") from None
    if isinstance(told, StoreNotice):
        put = told.event_type in ("create", "update", "rename") and not told.is_folder
        paths = [told.key] if put else []
    else:
        created = [one for one in told.records if one.event.startswith("ObjectCreated")]
        paths = [f"/buckets/{one.bucket}/{unquote_plus(one.key)}" for one in created]
    prefix = f"/buckets/{inbox}/"
    keys = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
    # The parts of an upload lie in a folder of the store's own until it is complete.
    return [key for key in keys if not key.startswith(".")]


def parse_image(message: Delivered) -> ImageEvent:
    """Read a message of the stream. ValueError says what is wrong with it."""
    return _parsed(ImageEvent, message.data)


def parse_inspection(data: bytes) -> InspectionEvent:
    """Read a decision. ValueError says what is wrong with it."""
    return _parsed(InspectionEvent, data)


def parse_verdict(data: bytes) -> VerdictEvent:
    """Read a verdict. ValueError says what is wrong with it."""
    return _parsed(VerdictEvent, data)


def _parsed(kind: type[T], data: bytes) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def decode(data: bytes) -> Image.Image:
    """A file's picture as 8-bit RGB, its size checked before its pixels are unpacked.

    Grey, RGB and 16-bit grey are taken, and alpha that hides nothing.

    Raises:
        BadImage: it is no JPEG or PNG, is truncated, too small or too large, or has colours that
            no camera here sends.
    """
    if len(data) > MOST_BYTES:
        raise BadImage(f"{len(data):,} bytes; {MOST_BYTES:,} are the most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(*image.size)
            image.load()
    except UnidentifiedImageError:
        raise BadImage(f"no {' or '.join(_FORMATS)}: it begins with {data[:8]!r}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"far more than {MOST_PIXELS:,} pixels, which are the most") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"it can't be unpacked: {error}") from None
    return _rgb(image)


def _check_size(width: int, height: int) -> None:
    if min(width, height) < LEAST_SIDE:
        raise BadImage(f"{width} x {height} pixels; {LEAST_SIDE} a side are the least")
    if width * height > MOST_PIXELS:
        raise BadImage(f"{width} x {height} pixels; {MOST_PIXELS:,} are the most")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image.convert("RGB")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadImage("it is partly transparent: what lies behind is not known")
        return image.convert("RGB")
    raise BadImage(f"its colours are {image.mode}; a camera sends grey or RGB")


INSPECTIONS = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("inspection_id", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("line", pa.string(), nullable=False),
        pa.field("station", pa.string(), nullable=False),
        pa.field("lot", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("defect", pa.float64(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("defect_share", pa.float64(), nullable=False),
        pa.field("brightness", pa.float64(), nullable=False),
        pa.field("contrast", pa.float64(), nullable=False),
        pa.field("sharpness", pa.float64(), nullable=False),
        pa.field("clipped", pa.float64(), nullable=False),
    ]
)
VERDICTS = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("inspection_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
    ]
)
