"""The control group: a small random share of would-be declines is approved, to learn the truth.

A declined transaction has no label. A model that is trained on approved transactions alone does
not learn what it declines, and what declining costs is unknown. So each would-be decline is
approved with a known probability, its propensity: `rate` up to `MAX_EXPOSED_MINOR`, and above it
less in proportion to the amount. The expected loss of one decline is at most
`rate * MAX_EXPOSED_MINOR`, and every kind of fraud is approved sometimes. A transaction with
propensity p stands for 1 / p declines.

Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
Universe", 1952, doi:10.1080/01621459.1952.10483446.
"""

import numpy as np

from services.platform.evaluation import sampling
from services.platform.types import Floats

MAX_EXPOSED_MINOR = 10_000


def draw(transaction_id: str) -> float:
    """A number in [0, 1) of a transaction, the same for each process and for an audit.

    >>> 0.0 <= draw("t1-7") < 1.0, draw("t1-7") == draw("t1-7")
    (True, True)
    """
    return sampling.draw(transaction_id, "control")


def propensity(amount_minor: Floats, rate: float) -> Floats:
    """(N,) probability that would-be declines of these amounts are approved.

    >>> propensity(np.array([0.0, 10_000.0, 40_000.0]), 0.02).tolist()
    [0.02, 0.02, 0.005]
    """
    return rate * np.minimum(1.0, MAX_EXPOSED_MINOR / np.maximum(amount_minor, 1.0))


def propensity_of(amount_minor: int, rate: float) -> float:
    """`propensity` of one would-be decline.

    >>> propensity_of(40_000, 0.02)
    0.005
    """
    return float(propensity(np.array([amount_minor], dtype=np.float64), rate)[0])


def is_control(transaction_id: str, chance: float) -> bool:
    """Whether a would-be decline is approved; serving and the skew audit draw alike.

    >>> is_control("t1-7", 1.0), is_control("t1-7", 0.0)
    (True, False)
    """
    return draw(transaction_id) < chance
