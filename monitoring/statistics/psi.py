"""Population stability index: how far two histograms lie apart, in one number.

Source: Siddiqi, "Credit Risk Scorecards", 2006, p. 137; symmetric Kullback-Leibler divergence.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# An empty bin would make it infinite; this share stands in, as is usual.
LEAST_SHARE = 1e-4


def psi(reference: Floats, counts: Floats) -> float:
    """PSI of two histograms over the same B bins, both (B,) counts; 0 where they agree.

    Raises:
        ValueError: one of them is empty.
    """
    if reference.sum() <= 0 or counts.sum() <= 0:
        raise ValueError("an empty histogram has no shares")
    expected = np.maximum(reference / reference.sum(), LEAST_SHARE)
    actual = np.maximum(counts / counts.sum(), LEAST_SHARE)
    return float(np.sum((actual - expected) * np.log(actual / expected)))
