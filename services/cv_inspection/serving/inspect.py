"""Inspect one image: the function that HTTP, the stream, the batch and the edge all call.

It does no input or output, so an image gets the same decision wherever it comes from.
"""

import io
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.features.image import measure_quality, resize
from services.cv_inspection.ingestion.events import (
    Decision,
    ImageRef,
    InspectionEvent,
    Quality,
    inspection_id,
)
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.model import ImageModel
from services.cv_inspection.problem import (
    MAX_BRIGHTNESS,
    MAX_CLIPPED,
    MAX_MASK_SHARE_OF_PASSED,
    MIN_BRIGHTNESS,
)
from services.platform.types import Floats32


@dataclass(frozen=True)
class InspectionResult:
    """The result of one inspection.

    Attributes:
        event: What is published.
        mask: (S, S) bool, where the defect is.
        stages: Seconds by stage.
    """

    event: InspectionEvent
    mask: npt.NDArray[np.bool_]
    stages: dict[str, float]

    @property
    def mask_png(self) -> bytes:
        """The mask as a PNG file: 255 where the defect is."""
        out = io.BytesIO()
        Image.fromarray(self.mask).save(out, "PNG", optimize=False)
        return out.getvalue()


def inspect(
    model: ImageModel, data: bytes, image_ref: ImageRef, at: datetime, key: str | None = None
) -> InspectionResult:
    """Decode an image, run the model and decide.

    Args:
        data: The image file.
        at: When its event was published, or it was posted, UTC.
        key: The image's key in the inbox, None for a posted image.

    Raises:
        InvalidImage: the file is not an image that a camera sends.
    """
    timer = _StageTimer()
    image = decode(data)
    timer.mark("decode")
    pixels = resize(image, model.size)
    quality = measure_quality(image)
    timer.mark("scale")
    probabilities, masks = model.inspect(pixels[None])
    timer.mark("infer")
    mask = masks[0, 0] > 0
    event = _event(model, probabilities[0], mask, quality, image_ref, at, key, data)
    timer.mark("decide")
    return InspectionResult(event, mask, timer.stages)


def decide(
    defect: float, threshold: float, mask_share: float, quality: Quality
) -> tuple[Decision, str]:
    """The decision, and the reason for a review, empty otherwise.

    An image that shows too little goes to a person, and so does a mask with a defect on a part that
    would pass, because class and mask contradict each other.

    Args:
        defect: Probability of any defect.
        mask_share: Share of the image that the mask covers.

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
    return "pass", ""


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of alternating runs of 0 and 1 in a mask (H, W), row by row, beginning with 0.

    >>> run_lengths(np.array([[0, 0, 1], [1, 0, 0]], dtype=bool))
    [2, 2, 2]
    >>> run_lengths(np.ones((1, 2), dtype=bool))
    [0, 2]
    """
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff(np.concatenate([[0], edges]))]


def _event(
    model: ImageModel,
    probabilities: Floats32,
    mask: npt.NDArray[np.bool_],
    quality: Quality,
    image_ref: ImageRef,
    at: datetime,
    key: str | None,
    data: bytes,
) -> InspectionEvent:
    card = model.card
    defect, share = float(1.0 - probabilities[0]), float(mask.mean())
    decision, reason = decide(defect, card.threshold, share, quality)
    return InspectionEvent(
        inspection_id=inspection_id(image_ref, data),
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
        quality=quality,
        mask_key=None if key is None else f"{image_ref.stem}.mask.png",
    )


class _StageTimer:
    def __init__(self) -> None:
        self._last = perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = perf_counter()
        self.stages[stage] = now - self._last
        self._last = now
