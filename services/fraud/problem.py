"""Step 1, problem and KPI: what a wrong decision costs, in money.

Stop a genuine customer and somebody reviews the case; let a fraud through and the amount is
charged back. The threshold minimises that sum, because the two mistakes differ in price by the
size of each purchase: neither accuracy nor AUC knows that, and a fixed recall target overpays on
small amounts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

CURRENCY: Final = "EUR"
REVIEW_COST_MINOR = 500
CHARGEBACK_FEE_MINOR = 1_500
DISPUTE_WINDOW_DAYS = 14
LATENCY_BUDGET_MS = 50.0

# Where hyperparameters are, a file a candidate.
CONF = Path(__file__).parent / "conf"

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kpi:
    """The cost of decisions, in minor units.

    Attributes:
        review: Cost of reviewing one declined genuine transaction.
        fee: What the card scheme charges on top of the amount for one chargeback.
    """

    review: int = REVIEW_COST_MINOR
    fee: int = CHARGEBACK_FEE_MINOR

    def costs(self, declined: Booleans, fraud: Booleans, amount_minor: Floats) -> Floats:
        """Cost of each of N decisions, (N,) minor units: FP x review + FN x (amount + fee)."""
        missed = np.where(fraud & ~declined, amount_minor + self.fee, 0.0)
        return missed + np.where(declined & ~fraud, float(self.review), 0.0)

    def total(self, declined: Booleans, fraud: Booleans, amount_minor: Floats) -> float:
        """Summed cost of N decisions, minor units."""
        return float(self.costs(declined, fraud, amount_minor).sum())

    def by_threshold(
        self, score: Floats, fraud: Booleans, amount_minor: Floats
    ) -> tuple[Floats, Floats]:
        """Total cost at every threshold that changes a decision.

        Returns:
            (thresholds, costs), both (K,), thresholds falling: decline where score >= threshold.
            The first is above every score: approve everything.
        """
        order = np.argsort(-score, kind="stable")
        saved = np.where(fraud[order], -(amount_minor[order] + self.fee), float(self.review))
        everything = self.total(np.zeros(len(fraud), dtype=bool), fraud, amount_minor)
        costs = everything + np.concatenate([[0.0], np.cumsum(saved)])
        ordered = score[order]
        last_of_equals = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
        thresholds = np.concatenate([[np.inf], ordered])
        return thresholds[last_of_equals], costs[last_of_equals]

    def best_threshold(self, score: Floats, fraud: Booleans, amount_minor: Floats) -> float:
        """The threshold of least cost. ValueError without transactions."""
        if len(score) == 0:
            raise ValueError("no transactions to choose a threshold on")
        thresholds, costs = self.by_threshold(score, fraud, amount_minor)
        best = float(thresholds[int(np.argmin(costs))])
        return best if np.isfinite(best) else 1.0
