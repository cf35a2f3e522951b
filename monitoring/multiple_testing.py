"""Correction for many comparisons: without it, chance alone would raise alarms.

Source: Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 1995.
"""

import numpy as np

from services.platform.types import Booleans, Floats


def benjamini_hochberg(p: Floats, rate: float) -> Booleans:
    """(N,) which of N p-values are discoveries at a false discovery rate; NaN is none.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.9, np.nan]), rate=0.05)
    array([ True, False, False, False, False])
    >>> benjamini_hochberg(np.array([0.01, 0.02, 0.03, 0.9, np.nan]), rate=0.05)
    array([ True,  True,  True, False, False])
    """
    found = np.zeros(len(p), dtype=bool)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(order) + 1) / max(len(order), 1))
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found
