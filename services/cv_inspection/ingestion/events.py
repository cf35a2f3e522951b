"""Images, inspections and labels as events: their fields, subjects and parsing."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote

from nats.aio.client import Client
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from services.cv_inspection.ingestion.labels import is_good
from services.cv_inspection.problem import GOOD
from services.platform.streaming.consumer import Message
from services.platform.streaming.messages import validation_message

STREAM, DECISIONS_STREAM, DEAD_STREAM = "CV", "CV_DECISIONS", "CV_DEAD"
IMAGE, LABEL, INSPECTION, DEAD = "cv.image", "cv.verdict", "cv.inspection", "cv.dead"
STREAMS = {
    STREAM: [f"{IMAGE}.>", f"{LABEL}.>"],
    DECISIONS_STREAM: [f"{INSPECTION}.>"],
    DEAD_STREAM: [f"{DEAD}.>"],
}

# A part of a key or a name: any letters, but no "/", no control characters, and no leading dot,
# which hides a file and leads out of a folder. A part and a result's extension fit in the 255 bytes
# of a file name.
_PART = r"[^./\x00-\x1f\x7f-\x9f\u2028\u2029][^/\x00-\x1f\x7f-\x9f\u2028\u2029]{0,239}"
_MAX_PART_BYTES = 240
_KEY = re.compile(
    rf"(?P<line>{_PART})/(?P<station>{_PART})/(?P<lot>{_PART})/(?P<frame>{_PART})"
    r"\.(?i:jpg|jpeg|png)"
)

KeyPart = Annotated[str, StringConstraints(pattern=f"^{_PART}$")]


class StrictModel(BaseModel):
    """A message without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=StrictModel)


class ImageRef(StrictModel):
    """Where an image was taken: the parts of its key."""

    line: KeyPart
    station: KeyPart
    lot: KeyPart
    frame: KeyPart

    @classmethod
    def from_key(cls, key: str) -> "ImageRef":
        """Parse a key below the inbox. ValueError names the expected form.

        >>> ImageRef.from_key("line-a/station-1/lot-7/0001.jpg").lot
        'lot-7'
        >>> ImageRef.from_key("Linie ä/station 1/lot-7/größe 图片 1.JPG").frame
        'größe 图片 1'
        """
        match = _KEY.fullmatch(key)
        if match is None or not _is_text(key):
            raise ValueError(f"key {key[:120]!r} is not <line>/<station>/<lot>/<frame>.jpg")
        if any(len(part.encode()) > _MAX_PART_BYTES for part in match.groups()):
            raise ValueError(f"key {key[:120]!r} has a part over {_MAX_PART_BYTES} bytes of UTF-8")
        return cls(**match.groupdict())

    @property
    def stem(self) -> str:
        """The key without its extension."""
        return f"{self.line}/{self.station}/{self.lot}/{self.frame}"


def result_stem(key: str) -> str:
    """Where an image's results are stored, without their endings.

    Only `.jpg` is dropped, so that 7.jpg, 7.JPG and 7.png have results of their own.

    >>> result_stem("a/1/lot/7.jpg"), result_stem("a/1/lot/7.png")
    ('a/1/lot/7', 'a/1/lot/7/png')

    Raises:
        ValueError: see `ImageRef.from_key`.
    """
    stem, ending = ImageRef.from_key(key).stem, key.rpartition(".")[2]
    return stem if ending == "jpg" else f"{stem}/{ending}"


class ImageEvent(StrictModel):
    """An image landed. `key` is its key below the inbox, with the extension."""

    key: Annotated[str, Field(max_length=1_024)]


class Quality(StrictModel):
    """Measures of an image's quality: see `features.image.measure_quality`."""

    brightness: float
    contrast: float
    sharpness: float
    clipped: float


Decision = Literal["pass", "reject", "review"]


class InspectionEvent(StrictModel):
    """The result of one image's inspection, and the decision.

    Attributes:
        inspection_id: Made of the image's reference and content, so that a repeated inspection of
            the same image has the same identity.
        key: Key in the inbox, None for a posted image.
        place: Reference of the image.
        at: When its event was published, or it was posted, UTC.
        label: The most probable class.
        defect: Probability of any defect.
        probabilities: By class.
        reason: Why a person has to inspect the part, empty otherwise.
        defect_share: Share of the image that the mask covers.
        novelty: Distance from the good parts of training, in their standard deviations; 0 of a
            model that does not measure it.
        mask_key: Key of the mask in the bucket of results, None for a posted image.
        map_key: Key of the map there, see `features.score_map`; None for a posted image, and in
            inspections from before maps.
        max_novelty: The threshold of the map's novelty; None if the map has no novelty.
        audit: Whether the part passes and a person looks at it, to label it.
        propensity: Probability that a person looks at a part of this decision, 1 for a stopped one;
            None in inspections from before audits.
    """

    inspection_id: str
    key: str | None
    place: ImageRef
    at: datetime
    label: str
    defect: float
    probabilities: dict[str, float]
    decision: Decision
    reason: str
    threshold: float
    model: str
    defect_share: float
    quality: Quality
    mask_key: str | None
    map_key: str | None = None
    max_novelty: float | None = None
    novelty: float = 0.0
    audit: bool = False
    propensity: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether the part was rejected or sent to a person."""
        return self.decision != "pass"


class LabelEvent(StrictModel):
    """An operator's label: the class of a part, `good` in any of its spellings or a defect."""

    inspection_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    label: Annotated[KeyPart, AfterValidator(lambda label: GOOD if is_good(label) else label)]
    by: Annotated[str, Field(max_length=40)] = "operator"

    @property
    def has_defect(self) -> bool:
        """Whether there is a defect."""
        return self.label != GOOD


def _is_text(key: str) -> bool:
    """Whether it can be written as UTF-8; a file name that is not UTF-8 can't."""
    return not any("\ud800" <= letter <= "\udfff" for letter in key)


def inspection_id(image: ImageRef, data: bytes) -> str:
    """The identity of an inspection: a hash of the image's reference and bytes.

    >>> inspection_id(ImageRef.from_key("a/b/c/1.jpg"), b"...")
    '808efdcb1218e96f410779d6a218e188'
    """
    return hashlib.sha256(image.stem.encode() + b"\0" + data).hexdigest()[:32]


def subject_token(name: str) -> str:
    """A name as one token of a subject, which has no spaces, dots or wildcards.

    >>> subject_token("line-a"), subject_token("Linie 1.b")
    ('line-a', 'Linie%201%2Eb')
    """
    return quote(name, safe="").replace(".", "%2E")


def inspection_subject(event: InspectionEvent) -> str:
    """Subject of an inspection."""
    return f"{INSPECTION}.{subject_token(event.place.line)}"


def parse_image(message: Message) -> ImageEvent:
    """Parse an image's event. ValueError says what is wrong with it."""
    return _parse(ImageEvent, message.data)


def parse_inspection(data: bytes) -> InspectionEvent:
    """Parse an inspection. ValueError says what is wrong with it."""
    return _parse(InspectionEvent, data)


def parse_label(data: bytes) -> LabelEvent:
    """Parse a label. ValueError says what is wrong with it."""
    return _parse(LabelEvent, data)


def _parse(kind: type[T], data: bytes) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(validation_message(error)) from None


async def publish_image(nc: Client, key: str, line: str, identity: str) -> None:
    """Publish an image's event. nats.errors.Error if the stream did not acknowledge it.

    Args:
        identity: The stream drops a second event with the same identity.
    """
    event = ImageEvent(key=key).model_dump_json().encode()
    headers = {"Nats-Msg-Id": identity}
    await nc.jetstream().publish(f"{IMAGE}.{subject_token(line)}", event, headers=headers)
