"""Step 1 as a contract: decisions are priced, and a threshold is the one of least cost."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kpi:
    """The cost of decisions, in minor units.

    Attributes:
        review: Cost of a person looking at one case that was stopped and was fine.
        fee: What a case let through costs on top of its amount.
    """

    review: int
    fee: int

    def costs(self, declined: Booleans, positive: Booleans, amount_minor: Floats) -> Floats:
        """Cost of each of N decisions, (N,) minor units: FP x review + FN x (amount + fee)."""
        missed = np.where(positive & ~declined, amount_minor + self.fee, 0.0)
        return missed + np.where(declined & ~positive, float(self.review), 0.0)

    def total(self, declined: Booleans, positive: Booleans, amount_minor: Floats) -> float:
        """Summed cost of N decisions, minor units."""
        return float(self.costs(declined, positive, amount_minor).sum())

    def by_threshold(
        self, score: Floats, positive: Booleans, amount_minor: Floats
    ) -> tuple[Floats, Floats]:
        """Total cost at every threshold that changes a decision.

        Returns:
            (thresholds, costs), both (K,), thresholds falling: decline where score >= threshold.
            The first is above every score: let everything through.
        """
        order = np.argsort(-score, kind="stable")
        saved = np.where(positive[order], -(amount_minor[order] + self.fee), float(self.review))
        everything = self.total(np.zeros(len(positive), dtype=bool), positive, amount_minor)
        costs = everything + np.concatenate([[0.0], np.cumsum(saved)])
        ordered = score[order]
        last_of_equals = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
        thresholds = np.concatenate([[np.inf], ordered])
        return thresholds[last_of_equals], costs[last_of_equals]

    def best_threshold(self, score: Floats, positive: Booleans, amount_minor: Floats) -> float:
        """The threshold of least cost. ValueError without cases."""
        if len(score) == 0:
            raise ValueError("nothing to choose a threshold on")
        thresholds, costs = self.by_threshold(score, positive, amount_minor)
        best = float(thresholds[int(np.argmin(costs))])
        return best if np.isfinite(best) else 1.0
