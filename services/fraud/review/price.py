"""The price of a review slot: a Lagrange multiplier that the queue itself keeps.

The multiplier of a capacity is raised by what arrives beyond it and lowered by what leaves: the
same recursion as the queue's length. So the queue is the multiplier, up to a scale, and a
controller that restarts has lost nothing. The scale follows from the costs: no review saves more
than OPEX, so at a full queue the price is OPEX and nothing is added.

Source: Neely, "Stochastic Network Optimization with Application to Communication and Queueing
Systems", 2010, chapter 4 (drift plus penalty).
"""

from services.fraud.problem import ANALYST_MINUTES, REVIEW_BOUND_MINUTES, CostModel

# Cases that one analyst finishes within the bound.
CASES_PER_ANALYST = REVIEW_BOUND_MINUTES / ANALYST_MINUTES
# Reviews take longer by chance, and cases arrive until the price follows: the price is full before
# the queue is. At .85 and a quadratic price, 97 % of reviews began within the bound with half an
# analyst, at .6 and a linear one 99.6 %, at the same cost (docs/decisions.md, 2026-11-27).
FULL_AT = 0.6


def slot_price(backlog: float, analysts: float, costs: CostModel) -> float:
    """Price of a slot, minor units; infinite without analysts.

    Args:
        backlog: Cases in the queue or in work.
        analysts: Analysts at work.

    >>> [slot_price(backlog, 2, CostModel()) for backlog in (0, 6, 12, 40)]
    [0.0, 250.0, 500.0, inf]
    """
    room = analysts * CASES_PER_ANALYST
    if backlog >= room:
        return float("inf")
    return costs.opex * min(backlog / (FULL_AT * room), 1.0)
