"""Step 1, problem and KPI: what a wrong decision costs, in money.

Stop a genuine customer and somebody reviews the case; let a fraud through and the amount is
charged back. The threshold minimises that sum, because the two mistakes differ in price by the
size of each purchase: neither accuracy nor AUC knows that, and a fixed recall target overpays on
small amounts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.platform.evaluation import cost as kpi

CURRENCY: Final = "EUR"
REVIEW_COST_MINOR = 500
CHARGEBACK_FEE_MINOR = 1_500
DISPUTE_WINDOW_DAYS = 14
LATENCY_BUDGET_MS = 50.0

# Where hyperparameters are, a file a candidate.
CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class Kpi(kpi.Kpi):
    """The cost of decisions: FP x review + FN x (amount + fee), minor units.

    Attributes:
        review: Cost of reviewing one declined genuine transaction.
        fee: What the card scheme charges on top of the amount for one chargeback.
    """

    review: int = REVIEW_COST_MINOR
    fee: int = CHARGEBACK_FEE_MINOR
