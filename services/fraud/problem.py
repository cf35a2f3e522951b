"""Step 1, problem and KPI: the cost of a wrong decision, in money.

Declining a genuine customer costs a manual review; approving a fraud costs the amount and a
chargeback fee. The threshold minimises the sum of both. The two errors differ in price by the size
of each purchase: accuracy and AUC ignore that, and a fixed recall target overpays on small amounts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.platform.evaluation import cost

DESIGN: Final = "fraud"
CURRENCY: Final = "EUR"
REVIEW_COST_MINOR = 500
CHARGEBACK_FEE_MINOR = 1_500
DISPUTE_WINDOW_DAYS = 14
LATENCY_BUDGET_MS = 50.0

# Hyperparameters, one file per candidate.
CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class CostModel(cost.CostModel):
    """The cost of decisions: FP x review + FN x (amount + fee), minor units.

    Attributes:
        review: Cost of reviewing one declined genuine transaction.
        fee: The card scheme's fee for one chargeback, on top of the amount.

    Examples:
        >>> import numpy as np
        >>> declined, fraud = np.array([True, False]), np.array([False, True])
        >>> CostModel().total(declined, fraud, np.array([4_000.0, 4_000.0]))
        6000.0
    """

    review: int = REVIEW_COST_MINOR
    fee: int = CHARGEBACK_FEE_MINOR
