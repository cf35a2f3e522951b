"""What other costs would decide: outcomes, cost a day and curves of logged decisions.

Everything is computed from arrays that were read once, so that a slider can be followed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.platform.evaluation.cost import CostModel
from services.platform.types import Booleans, Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

# Points of a curve: more can't be seen.
_POINTS = 120
_BINS = 10
_HOUR_S = 3_600.0


def covered_days(time_s: Floats) -> float:
    """Days of event time with decisions, to the hour, of D event times (D,), seconds.

    Hours without a decision do not count, so a few decisions of another month add an hour each.

    >>> covered_days(np.array([0.0, 1_800.0, 3_600.0, 86_400.0 * 60])) * 24
    3.0
    """
    return len(np.unique(time_s // _HOUR_S)) / 24


@dataclass(frozen=True)
class Slider:
    """A cost that can be changed.

    Attributes:
        name: As the design's cost model calls it.
        label: As a person reads it.
        unit: Behind the value.
        highest: The lowest is 0.
        step: Between two values.
    """

    name: str
    label: str
    unit: str
    highest: float
    step: float


@dataclass(frozen=True)
class Labelled:
    """L decisions of one model whose outcome is final.

    Attributes:
        model: "candidate:version".
        score: (L,) probabilities of the bad class.
        positive: (L,) whether each was bad.
        amount: (L,) minor units.
        weight: (L,) how many decisions each stands for; None: itself.
    """

    model: str
    score: Floats
    positive: Booleans
    amount: Floats
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def counted(self) -> Floats:
        """(L,) how often each counts."""
        return np.ones(len(self)) if self.weight is None else self.weight


@dataclass(frozen=True)
class LoggedDecisions:
    """D logged decisions.

    Attributes:
        score: (D,) probabilities of the bad class.
        threshold: (D,) the model's.
        amount: (D,) minor units.
        slot: (D,) price of a review slot when it was decided, minor units; infinite without one.
        days: See `covered_days`.
        labelled: By role, those whose outcome is final.
    """

    score: Floats
    threshold: Floats
    amount: Floats
    slot: Floats
    days: float
    labelled: Mapping[str, Labelled]

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class Curves:
    """Of one model, by its labelled decisions; each curve is a list of points.

    Attributes:
        model: "candidate:version".
        labelled: Number of decisions.
        positives: Of them, bad ones.
        cost: (threshold, EUR a labelled decision) if one threshold decided.
        precision_recall: (recall, precision).
        calibration: (mean score, share of bad ones), by bins of equal width.
    """

    model: str
    labelled: int
    positives: int
    cost: list[tuple[float, float]]
    precision_recall: list[tuple[float, float]]
    calibration: list[tuple[float, float]]


@dataclass(frozen=True)
class Decided:
    """What some costs decide.

    Attributes:
        outcome: (D,) codes.
        expected: By outcome code, the expected cost (D,), minor units.
        costs: The costs.
    """

    outcome: Integers
    expected: Sequence[Floats]
    costs: CostModel

    def expected_eur(self, outcome: Integers) -> float:
        """Summed expected cost of outcomes (D,) under these costs, EUR."""
        return float(np.choose(outcome, self.expected).sum()) / 100


def newest_by_role(rows: "pd.DataFrame") -> dict[str, Labelled]:
    """By role, the labelled decisions of its newest model.

    Args:
        rows: Columns `role`, `model`, `score`, `positive`, `amount`, `weight`, oldest first.
    """
    found = {}
    for role, of in rows.groupby("role"):
        newest = of[of["model"] == of["model"].iloc[-1]]
        found[str(role)] = Labelled(
            str(newest["model"].iloc[-1]),
            newest["score"].to_numpy(np.float64),
            newest["positive"].to_numpy(np.bool_),
            newest["amount"].to_numpy(np.float64),
            newest["weight"].to_numpy(np.float64),
        )
    return found


def curves(labelled: Labelled, costs: CostModel) -> Curves:
    """Curves of one model under some costs."""
    score, positive, weight = labelled.score, labelled.positive, labelled.counted
    thresholds, by_threshold = costs.by_threshold(score, positive, labelled.amount, weight)
    cost = np.column_stack([thresholds, by_threshold / 100 / max(float(weight.sum()), 1.0)])[1:]
    return Curves(
        labelled.model,
        len(score),
        int(positive.sum()),
        _thinned(cost),
        _thinned(precision_recall(score, positive, weight)),
        _pairs(calibration(score, positive, weight)),
    )


def precision_recall(score: Floats, positive: Booleans, weight: Floats | None = None) -> Floats:
    """(K, 2) recall and precision at each distinct score, by falling score.

    Args:
        weight: (N,) how often each counts; None: once.

    >>> precision_recall(np.array([0.9, 0.6, 0.2]), np.array([True, False, True])).tolist()
    [[0.5, 1.0], [0.5, 0.5], [1.0, 0.6666666666666666]]
    """
    order = np.argsort(-score, kind="stable")
    weight = np.ones(len(score)) if weight is None else weight
    hits = np.cumsum(np.where(positive, weight, 0.0)[order])
    stopped = np.cumsum(weight[order])
    last = np.append(np.diff(score[order]) != 0, True)[: len(score)]
    total = max(float(weight[positive].sum()), 1.0)
    return np.column_stack([hits / total, hits / stopped])[last]


def calibration(
    score: Floats, positive: Booleans, weight: Floats | None = None, bins: int = _BINS
) -> Floats:
    """(B, 2) mean score and share of positives of the bins that have decisions.

    Args:
        weight: (N,) how often each counts; None: once.

    >>> calibration(np.array([0.1, 0.1, 0.9]), np.array([False, True, True])).tolist()
    [[0.1, 0.5], [0.9, 1.0]]
    """
    which = np.minimum((score * bins).astype(int), bins - 1)
    weight = np.ones(len(score)) if weight is None else weight
    count = np.bincount(which, weight, bins)
    sums = np.column_stack([np.bincount(which, w * weight, bins) for w in (score, positive)])
    used = count > 0
    found: Floats = sums[used] / count[used, None]
    return found


def _thinned(points: Floats) -> list[tuple[float, float]]:
    """At most `_POINTS` points (K, 2), the first and the last among them."""
    if len(points) > _POINTS:
        points = points[np.unique(np.geomspace(1, len(points), _POINTS).round().astype(int)) - 1]
    return _pairs(points)


def _pairs(points: Floats) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
