"""Step 1 as a contract: the cost of decisions, and the threshold of least cost."""

from dataclasses import dataclass

import numpy as np

from services.platform.types import Booleans, Floats, Integers

# What costs and amounts are counted in, wherever they leave as JSON without a unit in their name.
COST_UNIT = "EUR cents"

# (N,) the outcome of each decision: true where a case was stopped, or a design's outcome codes.
Outcomes = Booleans | Integers


@dataclass(frozen=True)
class CostModel:
    """The cost of decisions, in minor units.

    Attributes:
        opex: Cost of a false positive: a negative case that was stopped.
        fee: Cost of a false negative in addition to its amount.
    """

    opex: int
    fee: int

    def costs(self, outcome: Outcomes, positive: Booleans, amount_minor: Floats) -> Floats:
        """Cost of each of N decisions, (N,) minor units: FP x OPEX + FN x (amount + fee).

        Args:
            outcome: (N,) true where a case was stopped.

        >>> declined, positive = np.array([True, False, True]), np.array([False, True, True])
        >>> CostModel(opex=500, fee=1_500).costs(declined, positive, np.full(3, 1_000.0)).tolist()
        [500.0, 2500.0, 0.0]
        """
        stopped = np.asarray(outcome, dtype=bool)
        missed = np.where(positive & ~stopped, amount_minor + self.fee, 0.0)
        return missed + np.where(stopped & ~positive, float(self.opex), 0.0)

    def total(self, outcome: Outcomes, positive: Booleans, amount_minor: Floats) -> float:
        """Summed cost of N decisions, minor units."""
        return float(self.costs(outcome, positive, amount_minor).sum())

    def outcomes(self, score: Floats, threshold: float, amount_minor: Floats) -> Outcomes:
        """The outcomes (N,) that N scores lead to; here those of a single threshold.

        A design with more than two outcomes overrides this and `costs`: gate, quality monitor and
        comparison compute costs of both together.

        >>> CostModel(500, 1_500).outcomes(np.array([0.9, 0.1]), 0.5, np.zeros(2)).tolist()
        [True, False]
        """
        return score >= threshold

    def by_threshold(
        self,
        score: Floats,
        positive: Booleans,
        amount_minor: Floats,
        weight: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Total cost at every threshold that changes a decision.

        Args:
            weight: (N,) how often each counts; None: once.

        Returns:
            (thresholds, costs), both (K,), by falling threshold. A case is declined if its score is
            at least the threshold; the first one is infinite, so that nothing is declined.
        """
        order = np.argsort(-score, kind="stable")
        change = np.where(positive[order], -(amount_minor[order] + self.fee), float(self.opex))
        approved = self.costs(np.zeros(len(positive), dtype=bool), positive, amount_minor)
        if weight is not None:
            change, approved = change * weight[order], approved * weight
        approve_all = float(approved.sum())
        costs = approve_all + np.concatenate([[0.0], np.cumsum(change)])
        ordered = score[order]
        last_of_equals = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
        thresholds = np.concatenate([[np.inf], ordered])
        return thresholds[last_of_equals], costs[last_of_equals]

    def best_threshold(
        self,
        score: Floats,
        positive: Booleans,
        amount_minor: Floats,
        weight: Floats | None = None,
    ) -> float:
        """The threshold of least cost; 1 if declining nothing is cheapest. ValueError if N is 0.

        >>> score, positive = np.array([0.9, 0.6, 0.2]), np.array([True, True, False])
        >>> CostModel(opex=500, fee=1_500).best_threshold(score, positive, np.full(3, 1_000.0))
        0.6
        """
        if len(score) == 0:
            raise ValueError("nothing to choose a threshold on")
        thresholds, costs = self.by_threshold(score, positive, amount_minor, weight)
        best = float(thresholds[int(np.argmin(costs))])
        return best if np.isfinite(best) else 1.0
