"""One picture in, one decision out: what HTTP, the stream, the batch and the edge all call.

It does no input or output of its own, so that a picture is judged alike wherever it comes from.
"""

import io
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.features.image import quality, scaled
from services.cv_inspection.ingestion.events import (
    InspectionEvent,
    Outcome,
    Place,
    Quality,
    decode,
    inspection_id,
)
from services.cv_inspection.problem import (
    BRIGHTEST,
    DARKEST,
    MASK_WITHOUT_DEFECT,
    MOST_CLIPPED,
)
from services.cv_inspection.serving.model import ImageModel
from services.platform.models.onnx import Floats32


@dataclass(frozen=True)
class Inspected:
    """An inspection's event and its mask, (S, S) bool; `stages` are seconds by name."""

    event: InspectionEvent
    mask: npt.NDArray[np.bool_]
    stages: dict[str, float]

    @property
    def mask_png(self) -> bytes:
        """The mask as a file: 255 where the defect is."""
        out = io.BytesIO()
        Image.fromarray(self.mask).save(out, "PNG", optimize=False)
        return out.getvalue()


def inspect(
    model: ImageModel, data: bytes, place: Place, at: datetime, key: str | None = None
) -> Inspected:
    """Decode, look, decide.

    Args:
        key: The picture's key in the inbox, None for one that was posted.

    Raises:
        BadImage: it is no picture we judge.
    """
    clock = _Clock()
    image = decode(data)
    clock.mark("decode")
    pixels = scaled(image, model.size)
    seen = quality(image)
    clock.mark("scale")
    kinds, masks = model.inspect(pixels[None])
    clock.mark("infer")
    mask = masks[0, 0] > 0
    event = _event(model, kinds[0], mask, seen, place, at, key, data)
    clock.mark("decide")
    return Inspected(event, mask, clock.stages)


def decide(
    defect: float, threshold: float, mask_share: float, seen: Quality
) -> tuple[Outcome, str]:
    """The decision, and why a person is asked to look, empty if none is.

    A picture that shows nothing is nobody's to judge, and a mask with a defect on a part that would
    pass is a contradiction.
    """
    if seen.brightness < DARKEST:
        return "review", f"too dark: brightness {seen.brightness:.2f}"
    if seen.brightness > BRIGHTEST:
        return "review", f"too bright: brightness {seen.brightness:.2f}"
    if seen.clipped > MOST_CLIPPED:
        return "review", f"{seen.clipped:.0%} of it is clipped"
    if defect >= threshold:
        return "reject", ""
    if mask_share >= MASK_WITHOUT_DEFECT:
        return "review", f"the mask covers {mask_share:.1%}, the class says good"
    return "pass", ""


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of runs, row by row, of 0 and 1 in turn, beginning with 0."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff(np.concatenate([[0], edges]))]


def _event(
    model: ImageModel,
    kinds: Floats32,
    mask: npt.NDArray[np.bool_],
    seen: Quality,
    place: Place,
    at: datetime,
    key: str | None,
    data: bytes,
) -> InspectionEvent:
    card = model.card
    defect, share = float(1.0 - kinds[0]), float(mask.mean())
    decision, reason = decide(defect, card.threshold, share, seen)
    return InspectionEvent(
        inspection_id=inspection_id(place, data),
        key=key,
        place=place,
        at=at,
        label=card.classes[int(kinds.argmax())],
        defect=defect,
        probabilities={n: float(p) for n, p in zip(card.classes, kinds, strict=True)},
        decision=decision,
        reason=reason,
        threshold=card.threshold,
        model=f"{card.candidate}:{card.version}",
        defect_share=share,
        quality=seen,
        mask_key=None if key is None else f"{place.stem}.mask.png",
    )


class _Clock:
    def __init__(self) -> None:
        self._last = perf_counter()
        self.stages: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = perf_counter()
        self.stages[stage] = now - self._last
        self._last = now
