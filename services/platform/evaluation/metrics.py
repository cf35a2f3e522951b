"""Metrics of a scorer."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from services.platform.evaluation.cost import CostModel, Outcomes
from services.platform.types import Booleans, Floats


def calibration_error(
    score: Floats, positive: Booleans, bins: int = 15, weight: Floats | None = None
) -> float:
    """Expected calibration error over equal-width bins, in 0..1; `weight` (N,): None is 1 each.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    >>> calibration_error(np.array([0.25, 0.25]), np.array([False, True]))
    0.25
    """
    which = np.minimum((score * bins).astype(int), bins - 1)
    weight = np.ones(len(score)) if weight is None else weight
    gap = np.bincount(which, weights=weight * (score - positive), minlength=bins)
    return float(np.abs(gap).sum() / max(weight.sum(), 1))


def metrics(
    score: Floats,
    positive: Booleans,
    amount: Floats,
    threshold: float,
    cost: CostModel,
    weight: Floats | None = None,
) -> dict[str, float]:
    """Metrics of N scored examples at a threshold; costs and `amount` (N,) in minor units.

    Args:
        weight: (N,) how often each counts; None: once.
    """
    flagged = score >= threshold
    counted = np.ones(len(score)) if weight is None else weight
    hits = float(counted[flagged & positive].sum())

    def total(outcome: Outcomes) -> float:
        return float((cost.costs(outcome, positive, amount) * counted).sum())

    return {
        "ap": float(average_precision_score(positive, score, sample_weight=weight)),
        "auc": float(roc_auc_score(positive, score, sample_weight=weight)),
        "precision": hits / max(float(counted[flagged].sum()), 1.0),
        "recall": hits / max(float(counted[positive].sum()), 1.0),
        "ece": calibration_error(score, positive, weight=weight),
        "threshold": threshold,
        "cost": total(cost.outcomes(score, threshold, amount)),
        "cost_one_threshold": total(flagged),
        "cost_approve_all": total(np.zeros_like(flagged)),
    }
