"""Two-sample Kolmogorov-Smirnov statistic: the largest gap between two distribution functions.

Source: Hodges, "The significance probability of the Smirnov two-sample test", Arkiv för Matematik
1958. Its p-value supposes independent draws; decisions of one day are not, so the statistic is
judged by clean windows instead (`reference.py`).
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ks(reference: Floats, window: Floats) -> float:
    """The statistic of two samples, (N,) sorted and (M,), in 0..1; no NaN among them.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(reference) or not len(window):
        raise ValueError("an empty sample has no distribution")
    ordered = np.sort(window)
    every = np.concatenate([reference, ordered])
    one = np.searchsorted(reference, every, side="right") / len(reference)
    other = np.searchsorted(ordered, every, side="right") / len(ordered)
    return float(np.abs(one - other).max())
