"""Metrics of a scorer."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from services.platform.evaluation.cost import CostModel
from services.platform.types import Booleans, Floats


def calibration_error(score: Floats, positive: Booleans, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins, in 0..1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    >>> calibration_error(np.array([0.25, 0.25]), np.array([False, True]))
    0.25
    """
    which = np.minimum((score * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.bincount(which, weights=score, minlength=bins) - np.bincount(
        which, weights=positive, minlength=bins
    )
    return float(np.abs(gap).sum() / max(count.sum(), 1))


def metrics(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> dict[str, float]:
    """Metrics of N scored examples at a threshold; costs and `amount` (N,) in minor units."""
    flagged = score >= threshold
    hits = int((flagged & positive).sum())
    return {
        "ap": float(average_precision_score(positive, score)),
        "auc": float(roc_auc_score(positive, score)),
        "precision": hits / max(int(flagged.sum()), 1),
        "recall": hits / max(int(positive.sum()), 1),
        "ece": calibration_error(score, positive),
        "threshold": threshold,
        "cost": cost.total(cost.outcomes(score, threshold, amount), positive, amount),
        "cost_one_threshold": cost.total(flagged, positive, amount),
        "cost_approve_all": cost.total(np.zeros_like(flagged), positive, amount),
    }
