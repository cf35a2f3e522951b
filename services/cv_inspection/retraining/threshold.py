"""The threshold: where stopping a part and passing it are expected to cost the same.

A logistic regression on the log-odds of the score gives P(defect); the costs give the probability
to stop at. It has two parameters, so a few defects near the threshold do not decide. The threshold
that was cheapest on 900 images, of which 90 show a defect, costs 12 % more on others: ADR 34.

Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
"""

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from services.cv_inspection.problem import MAX_FALSE_ALARM_SHARE, CostModel
from services.platform.types import Booleans, Floats

# Scores are within so much of 0 and 1: float32 probabilities have no more digits near 1.
_EDGE = 1e-6
# Next to no regularisation: there are two parameters.
_INVERSE_REGULARISATION = 1e6


def choose_threshold(
    score: Floats, defect: Booleans, escape_minor: Floats, weight: Floats | None = None
) -> float:
    """The threshold of least expected cost for N parts that training did not see.

    Without a defect among them, the one that stops a share of the good parts. Where the score does
    not rise with defects, the one that is cheapest on these parts.

    Args:
        score: (N,) of a defect, 0..1.
        defect: (N,) whether there is one.
        escape_minor: (N,) cost of an escape, minor units.
        weight: (N,) how often each counts; None: once.

    Raises:
        ValueError: there are no parts, or none counts.
    """
    if weight is not None:
        counted = weight > 0.0
        score, defect, escape_minor = score[counted], defect[counted], escape_minor[counted]
        weight = weight[counted]
    if not len(score):
        raise ValueError("nothing to choose a threshold on: no part, or none that counts")
    if not defect.any():
        return float(np.quantile(score, 1.0 - MAX_FALSE_ALARM_SHARE))
    costs = CostModel()
    if not defect.all():
        odds = logit(np.clip(score, _EDGE, 1.0 - _EDGE))
        fit = LogisticRegression(C=_INVERSE_REGULARISATION)
        fit.fit(odds[:, None], defect, sample_weight=weight)
        slope, offset = float(fit.coef_[0, 0]), float(fit.intercept_[0])
        escape = float(np.average(escape_minor[defect])) + costs.fee
        if slope > 0.0:
            return float(expit((logit(costs.opex / (costs.opex + escape)) - offset) / slope))
    return costs.best_threshold(score, defect, escape_minor, weight)
