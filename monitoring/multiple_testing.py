"""Many features are compared many times; this keeps chance from raising the alarm.

Source: Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 1995.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


def benjamini_hochberg(p: Floats, rate: float) -> Booleans:
    """(N,) which of N p-values are discoveries at a false discovery rate; NaN is none."""
    found = np.zeros(len(p), dtype=bool)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(order) + 1) / max(len(order), 1))
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found
