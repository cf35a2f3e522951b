"""What a drift statistic is, and the registry it enters by decorator.

A statistic is one file in `monitoring/statistics/`. Adding one touches no other file: references,
the monitor, its metric, the lake's table, the benchmark and the report find it by its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar, TypeVar

import numpy as np

from services.platform.types import Floats

# What a statistic keeps of one training column: arrays by name, of the same shapes for all columns.
Summary = Mapping[str, Floats]


@dataclass(frozen=True)
class ReferenceColumn:
    """One column of the training rows, in ascending order; missing values are NaN and come last.

    Attributes:
        values: (N,) all rows.
        sample: (K,) random rows, for statistics that store values.
    """

    values: Floats
    sample: Floats


class DriftStatistic(ABC):
    """How far a window of one column lies from its reference.

    Attributes:
        name: Its label on metrics, its column in the lake's table, its name in stored references.
        unit: Unit of its distance.
        why: What it sees, in a clause.
        alarms: Whether it raises alarms. One that does not is shown and stored, with its p-value.
        evidently: Evidently's name of the same statistic, for the report; empty if it has none.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    why: ClassVar[str]
    alarms: ClassVar[bool] = True
    evidently: ClassVar[str] = ""

    @abstractmethod
    def summarise(self, reference: ReferenceColumn) -> Summary:
        """What `distance` needs of a training column; stored with the model."""

    @abstractmethod
    def distance(self, summary: Summary, window: Floats) -> float:
        """Distance of a window's column from a summary: finite, and 0 where nothing differs.

        Args:
            summary: What `summarise` made.
            window: (N,) in ascending order, N > 0; missing values are NaN and come last, as
                `numpy.sort` leaves them. All may be missing.
        """


def present(ordered: Floats) -> Floats:
    """The values that are not missing of a column in ascending order, missing values last.

    >>> present(np.array([1.0, 3.0, np.nan]))
    array([1., 3.])
    """
    return ordered[: len(ordered) - int(np.isnan(ordered).sum())]


S = TypeVar("S", bound=type[DriftStatistic])


class StatisticRegistry:
    """The drift statistics found in one package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._known: dict[str, DriftStatistic] = {}
        self._imported = False

    def register(self, statistic: S) -> S:
        """Class decorator. ValueError if the name is taken."""
        taken = self._known.get(statistic.name)
        if taken is not None:
            raise ValueError(f"statistic {statistic.name!r} is {taken.__module__} already")
        self._known[statistic.name] = statistic()
        return statistic

    def all(self) -> dict[str, DriftStatistic]:
        """All statistics in order of their names; imports the package's modules."""
        if not self._imported:
            package = import_module(self._package)
            for module in iter_modules(package.__path__):
                import_module(f"{self._package}.{module.name}")
            self._imported = True
        return dict(sorted(self._known.items()))
