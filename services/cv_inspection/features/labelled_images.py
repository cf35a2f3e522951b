"""Labelled pictures as a candidate is given them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.platform.evaluation.cost import Booleans, Floats
from services.platform.models.candidates import Examples


def index_of(label: str, classes: tuple[str, ...]) -> int:
    """A label's class; for one the model was never told of, the first of the defects."""
    return classes.index(label) if label in classes else 1


@dataclass(frozen=True)
class Pictures(Examples):
    """N labelled pictures.

    Attributes:
        vectors: (N, S, S, 3) uint8. positive: (N,) whether there is a defect.
        amount: (N,) minor units that an escape costs.
        label: (N,) index of the class, 0 for good. mask: (N, S, S) where the defect is.
        outlined: (N,) whether the mask says so; a defect nobody outlined has none.
        unit: (N,) number of the lot, or of the part, that a picture belongs to.
        quality: (N, Q) the pictures' own figures, see `features.quality`.
    """

    label: npt.NDArray[np.int64] = None  # type: ignore[assignment]
    mask: Booleans = None  # type: ignore[assignment]
    outlined: Booleans = None  # type: ignore[assignment]
    unit: npt.NDArray[np.int64] = None  # type: ignore[assignment]
    quality: Floats = None  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        pixels: npt.NDArray[np.uint8],
        label: npt.NDArray[np.int64],
        mask: Booleans,
        unit: npt.NDArray[np.int64],
        quality: Floats,
        escape_minor: float,
    ) -> "Pictures":
        """Pictures whose escapes all cost the same."""
        positive = label > 0
        return cls(
            vectors=pixels,
            positive=positive,
            amount=np.full(len(label), escape_minor, dtype=np.float64),
            label=label,
            mask=mask,
            outlined=~positive | mask.any(axis=(1, 2)),
            unit=unit,
            quality=quality,
        )

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Pictures":
        """Some of them."""
        return Pictures(
            self.vectors[chosen], self.positive[chosen], self.amount[chosen],
            label=self.label[chosen], mask=self.mask[chosen], outlined=self.outlined[chosen],
            unit=self.unit[chosen], quality=self.quality[chosen],
        )  # fmt: skip

    def even(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Rows in random order: all defects, and no more good parts than them, drawn at random."""
        good, bad = (np.flatnonzero(self.positive == kind) for kind in (False, True))
        if 0 < len(bad) < len(good):
            good = rng.choice(good, len(bad), replace=False)
        return rng.permutation(np.concatenate([good, bad]))

    def shown(self, classes: int) -> npt.NDArray[np.int64]:
        """(C,) how many of each class `even` shows."""
        count = np.bincount(self.label, minlength=classes)
        if bad := int(count[1:].sum()):
            count[0] = min(count[0], bad)
        return count
