"""Labelled images as a candidate gets them."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from services.cv_inspection.features.image import (
    QUALITY_MEASURES,
    Box,
    ImageSize,
    Pixels,
    height_width,
    quality_vector,
    resize_mask,
)
from services.cv_inspection.features.tiling import cut, tile_boxes
from services.cv_inspection.problem import ESCAPE_COST_MINOR
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.types import Booleans, Floats, Integers

# What is collected of an image or tile.
_COLLECTED = ("pixels", "mask", "quality", "label", "unit", "source")


def class_index(label: str, classes: tuple[str, ...]) -> int:
    """A label's class; the first defect for a label that the model does not know.

    >>> class_index("pit", ("good", "scratch", "pit")), class_index("dent", ("good", "scratch"))
    (2, 1)
    """
    return classes.index(label) if label in classes else 1


@dataclass(frozen=True)
class LabelledImages(Examples):
    """N labelled images, or tiles of larger ones.

    Attributes:
        vectors: (N, H, W, 3) uint8.
        positive: (N,) whether there is a defect.
        weight: (N,) how often each counts, see `ingestion.audit`; None: once.
        amount: (N,) cost of an escape, minor units.
        label: (N,) index of the class, 0 for good.
        mask: (N, H, W) where the defect is.
        has_mask: (N,) whether `mask` is known; false for a defect without an outline.
        unit: (N,) number of the lot, or of the part, that an image belongs to.
        quality: (N, Q) quality of the images, see `features.image`.
        source: (N,) number of the image that a row shows, or shows a tile of.
    """

    label: Integers = None  # type: ignore[assignment]
    mask: Booleans = None  # type: ignore[assignment]
    has_mask: Booleans = None  # type: ignore[assignment]
    unit: Integers = None  # type: ignore[assignment]
    quality: Floats = None  # type: ignore[assignment]
    source: Integers = None  # type: ignore[assignment]

    @classmethod
    def from_arrays(
        cls,
        pixels: Pixels,
        label: Integers,
        mask: Booleans,
        unit: Integers,
        quality: Floats,
        escape_cost_minor: float,
        source: Integers | None = None,
    ) -> "LabelledImages":
        """Images whose escapes all cost the same; without `source`, each row is an image."""
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
            source=np.arange(len(label)) if source is None else source,
        )

    def select(self, rows: Booleans | Integers) -> "LabelledImages":
        """The images of some rows, given as a mask (N,) or as indices."""
        return LabelledImages(
            self.vectors[rows], self.positive[rows], self.amount[rows],
            label=self.label[rows], mask=self.mask[rows], has_mask=self.has_mask[rows],
            unit=self.unit[rows], quality=self.quality[rows], source=self.source[rows],
            weight=None if self.weight is None else self.weight[rows],
        )  # fmt: skip

    @property
    def counted(self) -> Floats:
        """(N,) how often each counts."""
        return np.ones(len(self)) if self.weight is None else self.weight

    def by_image(self, score: Floats) -> tuple[Floats, "LabelledImages"]:
        """Scores and labels of whole images: an image is as bad as its worst tile.

        Args:
            score: (N,) of the rows.

        Returns:
            (M,) highest score of each image, and that tile's row with the image's label.
        """
        worst = np.lexsort((score, self.source))
        last = np.append(self.source[worst][1:] != self.source[worst][:-1], True)
        rows = worst[last]
        label = np.zeros(int(self.source.max(initial=-1)) + 1, dtype=np.int64)
        np.maximum.at(label, self.source, self.label)
        label = label[self.source[rows]]
        return score[rows], replace(self.select(rows), label=label, positive=label > 0)

    def balanced(self, rng: np.random.Generator) -> Integers:
        """Rows in random order: all defects, and at most as many good parts, drawn by weight."""
        bad = np.flatnonzero(self.positive)
        good = self.good(rng, len(bad) or len(self))
        return rng.permutation(np.concatenate([good, bad]))

    def good(self, rng: np.random.Generator, most: int) -> Integers:
        """Rows of at most `most` good parts, drawn without replacement, by weight if they have any.

        Stopped parts are all labelled and passed ones rarely: without weights, good parts that were
        stopped would crowd out the rest. Those with the smallest exponential variates of rate
        `weight` are a weighted sample (Efraimidis and Spirakis, 2006).
        """
        good = np.flatnonzero(~self.positive)
        if most >= len(good):
            return good
        if self.weight is None:
            drawn: Integers = rng.choice(good, most, replace=False)
            return drawn
        variates = rng.exponential(size=len(good)) / np.maximum(self.weight[good], 1e-9)
        return good[np.argsort(variates)[:most]]

    def class_counts(self, classes: int) -> Integers:
        """(C,) how many rows of each class `balanced` returns."""
        count = np.bincount(self.label, minlength=classes)
        if bad := int(count[1:].sum()):
            count[0] = min(count[0], bad)
        return count


def _crop(mask: Image.Image | None, image: Image.Image, box: Box) -> Image.Image | None:
    """The mask of a tile; masks may be of another size than their images."""
    if mask is None:
        return None
    scale = mask.width / image.width, mask.height / image.height
    left, top, right, bottom = (round(side * scale[i % 2]) for i, side in enumerate(box))
    return mask.crop((left, top, right, bottom))


class NoOutline(ValueError):
    """A defect in an image that is cut into tiles, and no mask says which of them show it."""


class ImageArrays:
    """Collects labelled images at a model's size; larger ones than it can see, in tiles."""

    def __init__(self, size: ImageSize, max_reduction: float = math.inf) -> None:
        """Collect nothing yet.

        Args:
            size: The model's input.
            max_reduction: Pixels of an image that may fall on one of the input, see `tile_boxes`.
        """
        self._size = size
        self._max_reduction = max_reduction
        self._rows: dict[str, list[Any]] = {name: [] for name in _COLLECTED}
        self._images = 0

    def add(self, image: Image.Image, mask: Image.Image | None, label: int, unit: int) -> None:
        """Add an RGB image, its mask, its class and its unit. A tile without defect is good.

        Raises:
            NoOutline: the image is cut into tiles, and no mask says which of them are defective.
        """
        boxes = tile_boxes(*image.size, self._size, self._max_reduction)
        if label and mask is None and len(boxes) > 1:
            width, height = image.size
            raise NoOutline(
                f"a defect of {width} x {height} pixels without a mask: the image is cut into "
                f"{len(boxes)} tiles, and nothing says which of them show it. Outline it, crop the "
                "image, or raise max_reduction in the candidate's conf"
            )
        quality = quality_vector(image)
        cropped = [_crop(mask, image, box) for box in boxes]
        outlines = [self._outline(part) for part in cropped]
        shows = [bool(outline.any()) for outline in outlines]
        if not any(shows):
            # A defect of a few pixels is lost where its mask is scaled.
            shows = [part is not None and part.getbbox() is not None for part in cropped]
        for pixels, outline, shown in zip(
            cut(image, boxes, self._size), outlines, shows, strict=True
        ):
            # A tile of a defective image shows the defect where its mask does.
            here = label if len(boxes) == 1 or shown else 0
            row = (pixels, outline, quality, here, unit, self._images)
            for name, value in zip(_COLLECTED, row, strict=True):
                self._rows[name].append(value)
        self._images += 1

    def _outline(self, mask: Image.Image | None) -> Booleans:
        if mask is None:
            return np.zeros(height_width(self._size), dtype=bool)
        return resize_mask(mask, self._size)

    def labelled(self) -> LabelledImages:
        """The images so far."""
        height, width = height_width(self._size)
        pixels, mask, quality, label, unit, source = (self._rows[name] for name in _COLLECTED)
        return LabelledImages.from_arrays(
            np.array(pixels, dtype=np.uint8).reshape(-1, height, width, 3),
            np.array(label, dtype=np.int64),
            np.array(mask, dtype=bool).reshape(-1, height, width),
            np.array(unit, dtype=np.int64),
            np.array(quality).reshape(-1, len(QUALITY_MEASURES)),
            ESCAPE_COST_MINOR,
            np.array(source, dtype=np.int64),
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


# Makes the images of a training run from a seed, the model's input and its largest reduction.
SplitSource = Callable[[int, ImageSize, float, ProgressBar], ImageSplit]


@dataclass(frozen=True)
class ImageHistory:
    """Labelled images that exist before the line has labels of its own.

    Attributes:
        split: Makes the images of a training run.
        rehearsal: Makes images that a champion is trained on again, from (seed, count, size).
    """

    split: SplitSource
    rehearsal: Callable[[int, int, ImageSize, ProgressCallback], LabelledImages]


def mask_iou(logits: np.ndarray, images: LabelledImages) -> float:
    """Mean over the defect classes of the pooled IoU of mask logits (N, H, W), 0..1.

    Background is left out: nearly all of it is easy, and it would raise the mean.
    """
    ious = []
    for kind in np.unique(images.label[images.has_mask & images.positive]):
        rows = (images.label == kind) & images.has_mask
        predicted, true = logits[rows] > 0, images.mask[rows]
        ious.append((predicted & true).sum() / max((predicted | true).sum(), 1))
    return float(np.mean(ious)) if ious else float("nan")
