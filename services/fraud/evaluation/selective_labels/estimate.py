"""What the control group tells of the declined transactions: see `review.control`."""

from dataclasses import dataclass

from scipy.stats import betabinom

from services.platform.types import Booleans, Floats


@dataclass(frozen=True)
class Estimate:
    """A number, estimated, with its 95 % interval."""

    value: float
    lower: float
    upper: float

    def covers(self, truth: float) -> bool:
        """Whether the interval contains the truth."""
        return self.lower <= truth <= self.upper


def genuine_declined(declined: int, weight: Floats, genuine: Booleans) -> Estimate:
    """How many of the declined transactions were genuine, by the control group of the same days.

    The interval is the beta-binomial's: of an unknown share of which `n` draws are seen (Jeffreys'
    prior), the declined ones are `declined` further draws. With unequal weights `n` is the
    effective number of draws (Kish, 1965).

    Args:
        declined: Number of transactions that were declined.
        weight: (C,) inverse propensities of the control group.
        genuine: (C,) its labels.

    >>> import numpy as np
    >>> genuine_declined(100, np.full(10, 20.0), np.array([True, False] * 5)).value
    50.0
    >>> genuine_declined(100, np.zeros(0), np.zeros(0, bool)).covers(3)
    True
    """
    total = float(weight.sum())
    share = float((weight * genuine).sum()) / total if total else 0.5
    draws = total**2 / float((weight**2).sum()) if total else 0.0
    hits = share * draws
    known = betabinom(declined, hits + 0.5, draws - hits + 0.5)
    return Estimate(share * declined, float(known.ppf(0.025)), float(known.ppf(0.975)))
