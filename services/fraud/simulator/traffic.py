"""The transactions and labels of a seed, day by day, under a schedule of drifts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from services.fraud.simulator.day import DAY_US, START, START_US, Day, concatenate
from services.fraud.simulator.drift import Drift, Schedule
from services.fraud.simulator.population import (
    Population,
)
from services.fraud.simulator.shopping import simulate_day


@dataclass(frozen=True)
class Traffic:
    """The transactions of a seed; days can be simulated in any order.

    Attributes:
        seed: Seed of the simulation.
        schedule: The drifts. A drift does not change transactions before it.
    """

    seed: int = 7
    schedule: Schedule = ()

    @property
    def population(self) -> Population:
        """The population of this seed."""
        return _population(self.seed)

    def day(self, number: int) -> Day:
        """Simulate day `number` since `START`.

        Raises:
            ValueError: the number is negative.
        """
        if number < 0:
            raise ValueError(f"day {number}: the simulation begins at day 0, {START:%Y-%m-%d}")
        return _day(self, number)

    def days(self, first: int, last: int) -> Iterator[Day]:
        """Days `first` up to, not including, `last`."""
        for number in range(first, last):
            yield self.day(number)


@lru_cache(maxsize=4)
def _population(seed: int) -> Population:
    return Population.draw(seed)


@lru_cache(maxsize=40)
def _day(traffic: Traffic, number: int) -> Day:
    """A day; where a drift begins within it, parts of it are simulated with and without."""
    begin, end = START_US + number * DAY_US, START_US + (number + 1) * DAY_US
    changes = [(0, Drift()), *traffic.schedule]
    ends = [at for at, _ in changes[1:]] + [end]
    parts = [
        simulate_day(traffic.population, number, drift).between(max(at, begin), min(until, end))
        for (at, drift), until in zip(changes, ends, strict=True)
        if at < end and until > begin and at < until
    ]
    return parts[0] if len(parts) == 1 else concatenate(parts)
