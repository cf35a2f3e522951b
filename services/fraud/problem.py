"""Step 1, problem and KPI: the cost of a decision, in money.

Declining a genuine customer costs OPEX (calls, a card to unblock, a purchase that goes elsewhere);
approving a fraud costs the amount and a chargeback fee: cost = FP x OPEX + FN x chargeback. An
analyst may look first: a review costs minutes, and analysts err in both directions. Each decision
is the outcome of least expected cost for its amount and its probability of fraud. A single
threshold declines small and large amounts alike, and a fixed recall target overpays on small ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from services.platform.evaluation import cost
from services.platform.evaluation.cost import Outcomes
from services.platform.types import Booleans, Floats

DESIGN: Final = "fraud"
CURRENCY: Final = "EUR"
OPEX_MINOR = 500
CHARGEBACK_FEE_MINOR = 1_500
# 30 EUR an hour.
ANALYST_MINUTE_MINOR = 50
ANALYST_MINUTES = 3.0
MISSED_SHARE = 0.05
WRONGLY_STOPPED_SHARE = 0.02
# A case that no analyst began within this time is late; after twice the time it is closed.
REVIEW_BOUND_MINUTES = 30.0
DISPUTE_WINDOW_DAYS = 14
LATENCY_BUDGET_MS = 50.0

# Codes of outcomes in arrays. False and True are approve and decline: a threshold's decisions are
# the special case without analysts.
APPROVE, DECLINE, REVIEW = range(3)
OUTCOMES: Final = ("approve", "decline", "review")

# Hyperparameters, one file per candidate.
CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class CostModel(cost.CostModel):
    """The cost of decisions, minor units. The only cost function of the design.

    Without analysts it is the KPI of step 1: FP x OPEX + FN x (amount + fee).

    Attributes:
        opex: Cost of a declined genuine transaction.
        fee: The card scheme's fee for one chargeback, on top of the amount.
        analyst_minute: Cost of a minute of an analyst.
        analyst_minutes: Minutes that a review takes.
        missed: Share of reviewed frauds that analysts approve.
        wrongly_stopped: Share of reviewed genuine transactions that analysts stop.
        slot: Price of a review slot, which the queue sets (`review.price`); infinite without
            analysts. It decides who is reviewed, and is not part of the cost.

    Examples:
        >>> declined, fraud = np.array([True, False]), np.array([False, True])
        >>> CostModel().total(declined, fraud, np.array([4_000.0, 4_000.0]))
        6000.0
        >>> CostModel().total(np.array([REVIEW]), np.array([True]), np.array([4_000.0]))
        425.0
    """

    opex: int = OPEX_MINOR
    fee: int = CHARGEBACK_FEE_MINOR
    analyst_minute: int = ANALYST_MINUTE_MINOR
    analyst_minutes: float = ANALYST_MINUTES
    missed: float = MISSED_SHARE
    wrongly_stopped: float = WRONGLY_STOPPED_SHARE
    slot: float = float("inf")

    @property
    def review(self) -> float:
        """Cost of one review."""
        return self.analyst_minute * self.analyst_minutes

    def expected(self, probability: float, amount_minor: float) -> tuple[float, float, float]:
        """Expected cost of approving, declining and reviewing one transaction, without the slot.

        It takes arrays (N,) too.

        >>> [round(cost) for cost in CostModel().expected(0.3, 5_000)]
        [1950, 350, 254]
        """
        genuine = 1.0 - probability
        chargeback = probability * (amount_minor + self.fee)
        declined = genuine * self.opex
        reviewed = self.review + self.missed * chargeback + self.wrongly_stopped * declined
        return chargeback, declined, reviewed

    def outcome(self, probability: float, amount_minor: float) -> int:
        """Code of the outcome of least expected cost, with the present price of a slot.

        A probability that is no number declines, here and in `outcomes`.

        >>> [OUTCOMES[CostModel(slot=0).outcome(p, 5_000)] for p in (0.01, 0.3, 0.9)]
        ['approve', 'review', 'decline']
        >>> OUTCOMES[CostModel().outcome(0.3, 5_000)]
        'decline'
        """
        approve, decline, review = self.expected(probability, amount_minor)
        review += self.slot
        if review < approve and review < decline:
            return REVIEW
        return APPROVE if approve <= decline else DECLINE

    def outcomes(self, score: Floats, threshold: float, amount_minor: Floats) -> Outcomes:
        """`outcome` of N transactions (N,), by their calibrated scores; no threshold is needed."""
        approve, decline, review = self.expected(score, amount_minor)  # type: ignore[arg-type]
        review = review + self.slot
        cheaper = np.where(approve <= decline, APPROVE, DECLINE)
        return np.where((review < approve) & (review < decline), REVIEW, cheaper)

    def saved_by_review(self, probability: Floats, amount_minor: Floats) -> Floats:
        """(N,) what a review saves against the better of approving and declining.

        It is the highest price of a slot at which a transaction is reviewed.
        """
        approve, decline, review = self.expected(probability, amount_minor)  # type: ignore[arg-type]
        saved: Floats = np.minimum(approve, decline) - review
        return saved

    def costs(self, outcome: Outcomes, positive: Booleans, amount_minor: Floats) -> Floats:
        """Cost of each of N decisions, (N,) minor units; reviews at their analysts' mean error.

        Args:
            outcome: (N,) codes, or true where declined.
            positive: (N,) whether each is fraud.
        """
        approve, decline, review = self.expected(positive.astype(np.float64), amount_minor)  # type: ignore[arg-type]
        code = np.asarray(outcome, dtype=np.int64)
        return np.choose(code, [approve, decline, review])
