"""Inspect one image: the function that HTTP, the stream, the batch and the edge all call.

It does no input or output, so an image gets the same decision wherever it comes from.
"""

import io
import math
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

from PIL import Image

from services.cv_inspection.features.image import Box, measure_quality
from services.cv_inspection.features.mask import boxes
from services.cv_inspection.ingestion.audit import is_audited
from services.cv_inspection.ingestion.events import (
    Decision,
    ImageRef,
    InspectionEvent,
    Quality,
    inspection_id,
    result_stem,
)
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.model import ImageModel, WholeImage
from services.cv_inspection.problem import (
    MAX_BRIGHTNESS,
    MAX_CLIPPED,
    MAX_MASK_SHARE_OF_PASSED,
    MIN_BRIGHTNESS,
)
from services.platform.types import Booleans


@dataclass(frozen=True)
class InspectionResult:
    """The result of one inspection.

    Attributes:
        event: What is published.
        found: What the model answered.
        stages: Seconds by stage.
    """

    event: InspectionEvent
    found: WholeImage
    stages: dict[str, float]

    @property
    def mask(self) -> Booleans:
        """(height, width) of the image as the file is displayed: where the defect is."""
        return self.found.mask

    @property
    def boxes(self) -> list[Box]:
        """A box around each defect, in the image's own pixels, the largest first."""
        return boxes(self.mask)

    @property
    def mask_png(self) -> bytes:
        """The mask as a PNG file: 255 where the defect is."""
        out = io.BytesIO()
        Image.fromarray(self.mask).save(out, "PNG", optimize=False)
        return out.getvalue()

    @property
    def map_png(self) -> bytes:
        """How bad each pixel is, as a PNG file: see `features.score_map`."""
        return self.found.map_png(self.event.max_novelty)


def inspect(
    model: ImageModel,
    data: bytes,
    image_ref: ImageRef,
    at: datetime,
    key: str | None = None,
    audit_share: float = 0.0,
) -> InspectionResult:
    """Decode an image, run the model and decide.

    Args:
        data: The image file.
        at: When its event was published, or it was posted, UTC.
        key: The image's key in the inbox, None for a posted image.
        audit_share: Share of passed parts that a person looks at.

    Raises:
        InvalidImage: the file is not an image that a camera sends.
    """
    timer = _StageTimer()
    image = decode(data)
    timer.mark("decode")
    quality = measure_quality(image)
    timer.mark("measure")
    found = model.inspect_image(image)
    timer.mark("infer")
    event = _event(model, found, quality, image_ref, at, key, data, audit_share)
    timer.mark("decide")
    return InspectionResult(event, found, timer.stages)


def decide(
    defect: float,
    threshold: float,
    mask_share: float,
    quality: Quality,
    novelty: float = 0.0,
    max_novelty: float = math.inf,
) -> tuple[Decision, str]:
    """The decision, and the reason for a review, empty otherwise.

    An image that shows too little goes to a person, and so does a part that would pass where the
    mask shows a defect, because class and mask contradict each other, or where it is unlike all
    good parts of training: it may have a defect of an unlabelled kind.

    Args:
        defect: Probability of any defect.
        mask_share: Share of the image that the mask covers.
        novelty: Distance from the good parts of training, in their standard deviations.
        max_novelty: The model's limit of it.

    >>> fine = Quality(brightness=0.5, contrast=0.1, sharpness=0.1, clipped=0.0)
    >>> decide(0.02, 0.1, 0.0, fine), decide(0.3, 0.1, 0.0, fine)
    (('pass', ''), ('reject', ''))
    >>> decide(0.02, 0.1, 0.05, fine)
    ('review', 'the mask covers 5.0%, the class is good')
    """
    if quality.brightness < MIN_BRIGHTNESS:
        return "review", f"too dark: brightness {quality.brightness:.2f}"
    if quality.brightness > MAX_BRIGHTNESS:
        return "review", f"too bright: brightness {quality.brightness:.2f}"
    if quality.clipped > MAX_CLIPPED:
        return "review", f"{quality.clipped:.0%} of the image is clipped"
    if defect >= threshold:
        return "reject", ""
    if mask_share >= MAX_MASK_SHARE_OF_PASSED:
        return "review", f"the mask covers {mask_share:.1%}, the class is good"
    if novelty >= max_novelty:
        return "review", f"unlike the good parts: novelty {novelty:.1f}, limit {max_novelty:.1f}"
    return "pass", ""


def _event(
    model: ImageModel,
    found: WholeImage,
    quality: Quality,
    image_ref: ImageRef,
    at: datetime,
    key: str | None,
    data: bytes,
    audit_share: float,
) -> InspectionEvent:
    card, probabilities = model.card, found.probabilities
    defect, share = float(1.0 - probabilities[0]), float(found.mask.mean())
    decision, reason = decide(
        defect, card.threshold, share, quality, found.novelty, model.max_novelty
    )
    identity, passed = inspection_id(image_ref, data), decision == "pass"
    stem = None if key is None else result_stem(key)
    return InspectionEvent(
        inspection_id=identity,
        key=key,
        place=image_ref,
        at=at,
        label=card.classes[int(probabilities.argmax())],
        defect=defect,
        probabilities={n: float(p) for n, p in zip(card.classes, probabilities, strict=True)},
        decision=decision,
        reason=reason,
        threshold=card.threshold,
        model=card.label,
        defect_share=share,
        novelty=found.novelty,
        quality=quality,
        mask_key=stem and f"{stem}.mask.png",
        map_key=stem and f"{stem}.map.png",
        max_novelty=model.map_novelty,
        audit=passed and is_audited(identity, audit_share),
        propensity=audit_share if passed else 1.0,
    )


class _StageTimer:
    def __init__(self) -> None:
        self._last = perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = perf_counter()
        self.stages[stage] = now - self._last
        self._last = now
