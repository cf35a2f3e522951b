"""The knee: the rate at which p95 passes the budget, found by loads at several rates."""

from collections.abc import Callable
from dataclasses import dataclass

# From one rate to the next.
STEP = 1.25


@dataclass(frozen=True)
class Step:
    """The load at one rate.

    Attributes:
        asked: Requests a second that were asked for.
        rate: Requests a second that were sent.
        p95_ms: Latency.
        failures: Number of failed requests.
    """

    asked: int
    rate: float
    p95_ms: float
    failures: int

    def misses(self, budget_ms: float) -> bool:
        """Whether p95 is not within the budget, or requests failed."""
        return self.p95_ms >= budget_ms or self.failures > 0


@dataclass(frozen=True)
class Knee:
    """What the search found.

    Attributes:
        rate: Requests a second at which p95 passes the budget.
        steps: By rising rate: those that hold the budget, then those that miss it.
    """

    rate: float
    steps: tuple[Step, ...]


def find_knee(load: Callable[[int], Step], begin: int, budget_ms: float) -> Knee:
    """Raise the rate by `STEP` until the budget is missed; lower it if the first rate misses it.

    A rate that misses gets a second load, and the better one counts: a pause of a shared machine
    is no knee.

    Args:
        load: Measures a rate.
        begin: The first rate.
        budget_ms: Bound of the p95.

    Raises:
        RuntimeError: No rate holds the budget.

    >>> found = find_knee(lambda rate: Step(rate, rate, 3_000 / (1_000 - rate), 0), 500, 50.0)
    >>> round(found.rate), [step.asked for step in found.steps]
    (940, [500, 625, 781, 976])
    """
    steps = [_best_of_two(load, begin, budget_ms)]
    down = steps[0].misses(budget_ms)
    while steps[-1].misses(budget_ms) == down:
        rate = steps[-1].asked
        rate = min(rate - 1, round(rate / STEP)) if down else max(rate + 1, round(rate * STEP))
        if not rate:
            raise RuntimeError(f"p95 is over {budget_ms:.0f} ms, or requests fail, at any rate")
        steps.append(_best_of_two(load, rate, budget_ms))
    held, missed = (steps[-1], steps[-2]) if down else (steps[-2], steps[-1])
    return Knee(_crossing(held, missed, budget_ms), tuple(sorted(steps, key=lambda one: one.asked)))


def _best_of_two(load: Callable[[int], Step], rate: int, budget_ms: float) -> Step:
    found = load(rate)
    if not found.misses(budget_ms):
        return found
    return min(found, load(rate), key=lambda one: (one.failures, one.p95_ms))


def _crossing(held: Step, missed: Step, budget_ms: float) -> float:
    """The rate between two loads at which p95 passes the budget.

    In an M/M/1 queue 1 / p95 falls linearly with the load. Where the load above failed in another
    way than by its p95, its rate is the knee.
    """
    if missed.p95_ms <= budget_ms:
        return missed.rate
    low, bound, high = (1 / ms for ms in (held.p95_ms, budget_ms, missed.p95_ms))
    return held.rate + (low - bound) / (low - high) * (missed.rate - held.rate)
