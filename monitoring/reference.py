"""What is normal: the training data's histograms, and how far clean windows lie from them.

A day is not a random sample of the month: it has its customers, its weather and its hour. So a
window's distance is not held to a textbook's table but to the distances of clean windows of the
same kind; their logarithms are close to normal, and a new one is judged by Student's t with as many
degrees of freedom as there were windows. Computed once, when a model is trained, and kept with it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from monitoring.statistics.ks import ks
from monitoring.statistics.psi import psi

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

STATISTICS = ("psi", "ks", "missing")
BINS = 10
SAMPLE = 2_000
# Logarithms of distances of 0 would be infinite, and one odd row of a window is no change:
# distances count from so many rows of a window on.
_ODD_ROWS = 2.0
# A clean spread narrower than this, in logarithms, is luck.
_LEAST_SPREAD = 0.15
# A column of which less than this share of a window was read is not judged.
_LEAST_READ = 0.5


@dataclass(frozen=True)
class Reference:
    """What windows are held to.

    Attributes:
        names: (F,) of the columns, the score last. edges: (F, BINS - 1) inner bin edges.
        counts: (F, BINS + 1) training rows by bin, the missing ones last.
        sample: (K, F) training rows. clean_mean, clean_spread: (S, F) of the logarithms of the
            distances of clean windows, by statistic. clean: How many those were.
        score_mean, score_spread: Of the mean score over clean windows.
        smallest: Distance that nobody acts on.
    """

    names: tuple[str, ...]
    edges: Floats
    counts: Floats
    sample: Floats
    clean_mean: Floats
    clean_spread: Floats
    clean: int
    score_mean: float
    score_spread: float
    smallest: float = 1e-5

    @classmethod
    def of(
        cls, names: Sequence[str], rows: Floats, windows: Sequence[Floats], seed: int = 0
    ) -> "Reference":
        """Describe training rows (N, F) and clean windows (n, F) each.

        Raises:
            ValueError: fewer than 8 clean windows: too few to say what is normal.
        """
        if len(windows) < 8:
            raise ValueError(f"{len(windows)} clean windows are too few to say what is normal")
        rng = np.random.default_rng(seed)
        edges = np.array([_edges(column) for column in rows.T])
        chosen = rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False)
        means = np.array([np.nanmean(window[:, -1]) for window in windows])
        bare = cls(
            names=tuple(names),
            edges=edges,
            counts=np.array([_counts(c, e) for c, e in zip(rows.T, edges, strict=True)]),
            sample=rows[chosen],
            clean_mean=np.zeros((len(STATISTICS), len(names))),
            clean_spread=np.ones((len(STATISTICS), len(names))),
            clean=len(windows),
            score_mean=float(means.mean()),
            score_spread=float(means.std(ddof=1)),
            smallest=_ODD_ROWS / float(np.median([len(window) for window in windows])),
        )
        distances = np.log(np.array([bare.distances(w) for w in windows]) + bare.smallest)
        spread = np.maximum(distances.std(axis=0, ddof=1), _LEAST_SPREAD)
        return _replaced(bare, clean_mean=distances.mean(axis=0), clean_spread=spread)

    def distances(self, window: Floats, unread: Booleans | None = None) -> Floats:
        """(S, F) distances of a window (N, F): by statistic and column.

        Args:
            unread: (N, F) what is left out, as if it had not come. A column of which most is left
                out has no distance.
        """
        out = np.zeros((len(STATISTICS), len(self.names)))
        for i, column in enumerate(window.T):
            if unread is not None:
                column = column[~unread[:, i]]
            if len(column) < _LEAST_READ * len(window):
                continue
            counts = _counts(column, self.edges[i])
            reference = self.counts[i]
            known, there = _present(self.sample[:, i]), _present(column)
            out[0, i] = psi(reference, counts)
            out[1, i] = ks(np.sort(known), there) if len(known) and len(there) else 1.0
            out[2, i] = abs(counts[-1] / counts.sum() - reference[-1] / reference.sum())
        return out

    def p_values(self, distances: Floats) -> Floats:
        """(S, F) chances that a clean window lies as far off or farther."""
        widened = self.clean_spread * np.sqrt(1 + 1 / self.clean)
        t = (np.log(distances + self.smallest) - self.clean_mean) / widened
        p: Floats = stats.t.sf(t, self.clean - 1)
        return p

    def to_bytes(self) -> bytes:
        """As it is kept with its model."""
        out = io.BytesIO()
        arrays = {k: v for k, v in self.__dict__.items() if k != "names"}
        np.savez_compressed(out, names=np.array(self.names), **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Read what `to_bytes` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            found = {name: kept[name] for name in kept.files}
        plain = {k: v.item() for k, v in found.items() if v.ndim == 0}
        return cls(**{**found, **plain, "names": tuple(found["names"].tolist())})


def _replaced(reference: Reference, **changes: Floats) -> Reference:
    return Reference(**{**reference.__dict__, **changes})


def _present(column: Floats) -> Floats:
    return column[~np.isnan(column)]


def _edges(column: Floats) -> Floats:
    """Inner edges of deciles; equal ones make bins that stay empty."""
    known = _present(column)
    if not len(known):
        return np.zeros(BINS - 1)
    quantiles: Floats = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])
    return quantiles


def _counts(column: Floats, edges: Floats) -> Floats:
    known = _present(column)
    bins = np.bincount(np.searchsorted(edges, known, side="right"), minlength=BINS)
    return np.append(bins, len(column) - len(known)).astype(np.float64)
