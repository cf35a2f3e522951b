"""Labelled images as a candidate gets them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from services.cv_inspection.features.image import (
    QUALITY_MEASURES,
    Pixels,
    quality_vector,
    resize,
    resize_mask,
)
from services.cv_inspection.problem import ESCAPE_COST_MINOR
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.types import Booleans, Floats, Integers

_ALL = slice(None)


def class_index(label: str, classes: tuple[str, ...]) -> int:
    """A label's class; the first defect for a label that the model does not know.

    >>> class_index("pit", ("good", "scratch", "pit")), class_index("dent", ("good", "scratch"))
    (2, 1)
    """
    return classes.index(label) if label in classes else 1


@dataclass(frozen=True)
class LabelledImages(Examples):
    """N labelled images.

    Attributes:
        vectors: (N, S, S, 3) uint8.
        positive: (N,) whether there is a defect.
        amount: (N,) cost of an escape, minor units.
        label: (N,) index of the class, 0 for good.
        mask: (N, S, S) where the defect is.
        has_mask: (N,) whether `mask` is known; false for a defect without an outline.
        unit: (N,) number of the lot, or of the part, that an image belongs to.
        quality: (N, Q) quality of the images, see `features.image`.
    """

    label: Integers = None  # type: ignore[assignment]
    mask: Booleans = None  # type: ignore[assignment]
    has_mask: Booleans = None  # type: ignore[assignment]
    unit: Integers = None  # type: ignore[assignment]
    quality: Floats = None  # type: ignore[assignment]

    @classmethod
    def from_arrays(
        cls,
        pixels: Pixels,
        label: Integers,
        mask: Booleans,
        unit: Integers,
        quality: Floats,
        escape_cost_minor: float,
    ) -> "LabelledImages":
        """Images whose escapes all cost the same."""
        positive = label > 0
        return cls(
            vectors=pixels,
            positive=positive,
            amount=np.full(len(label), escape_cost_minor, dtype=np.float64),
            label=label,
            mask=mask,
            has_mask=~positive | mask.any(axis=(1, 2)),
            unit=unit,
            quality=quality,
        )

    def select(self, rows: Booleans | Integers) -> "LabelledImages":
        """The images of some rows, given as a mask (N,) or as indices."""
        return LabelledImages(
            self.vectors[rows], self.positive[rows], self.amount[rows],
            label=self.label[rows], mask=self.mask[rows], has_mask=self.has_mask[rows],
            unit=self.unit[rows], quality=self.quality[rows],
        )  # fmt: skip

    def balanced(self, rng: np.random.Generator) -> Integers:
        """Rows in random order: all defects, and at most as many good parts, drawn at random."""
        good, bad = (np.flatnonzero(self.positive == kind) for kind in (False, True))
        if 0 < len(bad) < len(good):
            good = rng.choice(good, len(bad), replace=False)
        return rng.permutation(np.concatenate([good, bad]))

    def class_counts(self, classes: int) -> Integers:
        """(C,) how many rows of each class `balanced` returns."""
        count = np.bincount(self.label, minlength=classes)
        if bad := int(count[1:].sum()):
            count[0] = min(count[0], bad)
        return count


class ImageArrays:
    """The pixels, masks and quality of N images at one size, filled image by image.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        mask: (N, S, S), empty where it is not set.
        quality: (N, Q).
    """

    def __init__(self, count: int, size: int) -> None:
        self._size = size
        self.pixels = np.zeros((count, size, size, 3), dtype=np.uint8)
        self.mask = np.zeros((count, size, size), dtype=bool)
        self.quality = np.zeros((count, len(QUALITY_MEASURES)))

    def set(self, row: int, image: Image.Image, mask: Image.Image | None) -> None:
        """Set a row from an RGB image and its mask, both of any size."""
        self.pixels[row], self.quality[row] = resize(image, self._size), quality_vector(image)
        if mask is not None:
            self.mask[row] = resize_mask(mask, self._size)

    def labelled(
        self, label: Integers, unit: Integers, rows: Booleans | slice = _ALL
    ) -> LabelledImages:
        """The images of some rows with their labels and units, each (rows,)."""
        return LabelledImages.from_arrays(
            self.pixels[rows], label, self.mask[rows], unit, self.quality[rows], ESCAPE_COST_MINOR
        )


@dataclass(frozen=True)
class ImageSplit:
    """Training and validation images, and the names of their classes.

    Attributes:
        train: Images to fit on.
        validation: Images to choose the threshold on.
        classes: Names of the classes, `good` first.
        trained_until: Time of the newest image of the line among them, seconds; None if there is
            none.
    """

    train: LabelledImages
    validation: LabelledImages
    classes: tuple[str, ...]
    trained_until: float | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of all images and labels, for the model's card."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(part.vectors.tobytes() + part.label.tobytes())
        return digest.hexdigest()[:16]


# Makes the images of a training run from a seed and the side of the model's images.
SplitSource = Callable[[int, int, ProgressBar], ImageSplit]


@dataclass(frozen=True)
class ImageHistory:
    """Labelled images that exist before the line has labels of its own.

    Attributes:
        split: Makes the images of a training run.
        rehearsal: Makes images that a champion is trained on again, from (seed, count, size).
    """

    split: SplitSource
    rehearsal: Callable[[int, int, int, ProgressCallback], LabelledImages]


def mask_iou(logits: np.ndarray, images: LabelledImages) -> float:
    """Mean over the defect classes of the pooled IoU of mask logits (N, S, S), 0..1.

    Background is left out: nearly all of it is easy, and it would raise the mean.
    """
    ious = []
    for kind in np.unique(images.label[images.has_mask & images.positive]):
        rows = (images.label == kind) & images.has_mask
        predicted, true = logits[rows] > 0, images.mask[rows]
        ious.append((predicted & true).sum() / max((predicted | true).sum(), 1))
    return float(np.mean(ious)) if ious else float("nan")
