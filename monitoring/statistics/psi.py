"""Population stability index: how far two histograms lie apart, in one number.

Source: Siddiqi, "Credit Risk Scorecards", 2006, p. 137; symmetric Kullback-Leibler divergence.
"""

import numpy as np

from monitoring.drift_statistic import DriftStatistic, ReferenceColumn, Summary, present
from monitoring.statistics import STATISTICS
from services.platform.types import Floats

BINS = 10
# An empty bin would make the index infinite; it counts as this share, as is usual.
MIN_SHARE = 1e-4


def psi(reference: Floats, counts: Floats) -> float:
    """PSI of two histograms over the same B bins, both (B,) counts; 0 where they agree.

    >>> psi(np.array([50.0, 50.0]), np.array([5.0, 5.0]))
    0.0
    >>> round(psi(np.array([50.0, 50.0]), np.array([90.0, 10.0])), 3)
    0.879

    Raises:
        ValueError: one of them is empty.
    """
    if reference.sum() <= 0 or counts.sum() <= 0:
        raise ValueError("an empty histogram has no shares")
    expected = np.maximum(reference / reference.sum(), MIN_SHARE)
    actual = np.maximum(counts / counts.sum(), MIN_SHARE)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def decile_edges(ordered: Floats) -> Floats:
    """(BINS - 1,) inner edges of the deciles of a column; equal edges make bins that stay empty.

    Args:
        ordered: (N,) in ascending order, missing values last.

    >>> decile_edges(np.arange(11.0))
    array([1., 2., 3., 4., 5., 6., 7., 8., 9.])
    """
    known = present(ordered)
    if not len(known):
        return np.zeros(BINS - 1)
    edges: Floats = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])
    return edges


def histogram(ordered: Floats, edges: Floats) -> Floats:
    """(B + 1,) counts of a column by B bins, the missing values last.

    Args:
        ordered: (N,) in ascending order, missing values last.
        edges: (B - 1,) inner edges; a value on an edge belongs to the bin above.

    >>> histogram(np.array([0.5, 1.0, 1.5, 42.0, np.nan]), np.array([1.0, 2.0, 3.0]))
    array([1., 2., 0., 1., 1.])
    """
    known = present(ordered)
    below = np.searchsorted(known, edges, side="left")
    return np.diff(below, prepend=0, append=[len(known), len(ordered)]).astype(np.float64)


@STATISTICS.register
class PopulationStabilityIndex(DriftStatistic):
    """PSI over the training deciles, with a bin for missing values."""

    name = "psi"
    unit = "nats"
    why = "a distribution that changed its shape"
    evidently = "psi"

    def summarise(self, reference: ReferenceColumn) -> Summary:
        edges = decile_edges(reference.values)
        return {"edges": edges, "counts": histogram(reference.values, edges)}

    def distance(self, summary: Summary, window: Floats) -> float:
        return psi(summary["counts"], histogram(window, summary["edges"]))
