"""The drift monitor: windows in, findings out; no input or output.

Every statistic is compared for every column, corrected for the number of columns, and a sequential
test watches the mean score. One window is enough for an alarm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.multiple_testing import benjamini_hochberg
from monitoring.reference import Reference
from monitoring.statistics.page_hinkley import PageHinkley
from monitoring.statistics.upper_tail import UpperTail
from services.platform.types import Booleans, Floats

# Of each statistic that raises alarms: the share of clean windows in which it raises a false one.
FALSE_DISCOVERY_RATE = 0.0003
SCORE_DETECTOR = "page_hinkley_score"
TAIL_DETECTOR = "cusum_tail"
_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """What one detector found in one column of one window.

    Attributes:
        detector: A drift statistic's name, `SCORE_DETECTOR` or `TAIL_DETECTOR`.
        column: Name of the column.
        distance: In the statistic's unit; of `SCORE_DETECTOR` the window's mean score, of
            `TAIL_DETECTOR` the share of its values that are extreme.
        p: Chance of a clean window as far off; NaN of the sequential tests.
        source: Where the extreme values come from, of `TAIL_DETECTOR`; empty if it is not one.
        rows: Numbers of the window's most extreme rows, of `TAIL_DETECTOR`.
    """

    detector: str
    column: str
    distance: float
    p: float
    source: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class WindowResult:
    """One window compared with its reference.

    Attributes:
        rows: Decisions in the window.
        distances: By statistic, (F,).
        p: By statistic, (F,).
        findings: What raises an alarm.
    """

    rows: int
    distances: Mapping[str, Floats]
    p: Mapping[str, Floats]
    findings: list[Finding]


class DriftMonitor:
    """Compares windows of one model's decisions with its reference."""

    def __init__(
        self,
        reference: Reference,
        rising: Sequence[str] = (),
    ) -> None:
        """Begin.

        Args:
            reference: What windows are compared with.
            rising: Columns of which extreme values are counted, see `UpperTail`.
        """
        self.reference = reference
        names = reference.names
        self._tails = {
            name: UpperTail(reference.sample[:, names.index(name)], reference.clean_rows)
            for name in rising
            if name in names
        }
        self._sequential = PageHinkley(reference.score_mean, reference.score_spread)

    def check(
        self,
        window: Floats,
        unread: Booleans | None = None,
        sources: Sequence[str] | None = None,
    ) -> WindowResult:
        """Compare one window (N, F), the score last.

        Args:
            window: (N, F).
            unread: (N, F) values that could not be read when the decision was taken: an engine's
                outage, not a drift. They are left out.
            sources: (N,) where each row comes from, empty where that is not known.

        Raises:
            ValueError: it is empty.
        """
        if not len(window):
            raise ValueError("an empty window shows nothing")
        distances = self.reference.distances(window, unread)
        p = self.reference.p_values(distances)
        findings = [*self._drifted(distances, p)]
        scores = window[:, -1] if unread is None else window[~unread[:, -1], -1]
        mean = float(np.nanmean(scores)) if len(scores) else self.reference.score_mean
        if self._sequential.update(mean):
            findings.append(Finding(SCORE_DETECTOR, self.reference.names[-1], mean, float("nan")))
        findings += self._extreme(window, unread, sources or [""] * len(window))
        return WindowResult(len(window), distances, p, findings)

    def _extreme(
        self, window: Floats, unread: Booleans | None, sources: Sequence[str]
    ) -> Iterator[Finding]:
        for name, tail in self._tails.items():
            i = self.reference.names.index(name)
            column = (
                window[:, i] if unread is None else np.where(unread[:, i], np.nan, window[:, i])
            )
            if tail.update(column, sources):
                share = float((column > tail.edge).mean())
                rows = tuple(tail.extreme_rows(column, _EXAMPLES).tolist())
                yield Finding(TAIL_DETECTOR, name, share, float("nan"), tail.source(), rows)

    def _drifted(
        self, distances: Mapping[str, Floats], p: Mapping[str, Floats]
    ) -> Iterator[Finding]:
        for name, part in self.reference.statistics.items():
            if not part.statistic.alarms:
                continue
            for f in np.flatnonzero(benjamini_hochberg(p[name], FALSE_DISCOVERY_RATE)):
                column = self.reference.names[f]
                yield Finding(name, column, float(distances[name][f]), float(p[name][f]))
