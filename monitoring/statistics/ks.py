"""Two-sample Kolmogorov-Smirnov statistic: the largest gap between two distribution functions.

Source: Hodges, "The significance probability of the Smirnov two-sample test", Arkiv för Matematik
1958. Its textbook p-value assumes independent draws, which the decisions of one day are not, so the
statistic is compared with clean windows instead (`monitoring/reference.py`).
"""

import numpy as np

from monitoring.drift_statistic import DriftStatistic, ReferenceColumn, Summary, present
from monitoring.statistics import STATISTICS
from services.platform.types import Floats


def ks(reference: Floats, window: Floats) -> float:
    """The statistic of two samples, (N,) and (M,) in ascending order, in 0..1; no NaN among them.

    >>> ks(np.array([1.0, 2.0]), np.array([1.0, 1.0, 2.0, 2.0]))
    0.0
    >>> ks(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))
    0.5

    Raises:
        ValueError: one of them is empty.
    """
    if not len(reference) or not len(window):
        raise ValueError("an empty sample has no distribution")
    every = np.concatenate([reference, window])
    one = np.searchsorted(reference, every, side="right") / len(reference)
    other = np.searchsorted(window, every, side="right") / len(window)
    return float(np.abs(one - other).max())


@STATISTICS.register
class KolmogorovSmirnov(DriftStatistic):
    """KS against a sample of the training rows; missing values are left out."""

    name = "ks"
    unit = "share"
    why = "a distribution that moved"
    evidently = "ks"

    def summarise(self, reference: ReferenceColumn) -> Summary:
        return {"values": reference.sample}

    def distance(self, summary: Summary, window: Floats) -> float:
        """1 where only one of the two has values."""
        known, seen = present(summary["values"]), present(window)
        if not len(known) or not len(seen):
            return float(len(known) != len(seen))
        return ks(known, seen)
