"""The drift monitor: windows in, findings out; no input or output.

Every statistic is compared for every column, corrected for the number of columns, and a sequential
test watches the mean score. One window is enough for an alarm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from monitoring.multiple_testing import benjamini_hochberg
from monitoring.reference import Reference
from monitoring.statistics.page_hinkley import PageHinkley
from services.platform.types import Booleans, Floats

# Of each statistic that raises alarms: the share of clean windows in which it raises a false one.
FALSE_DISCOVERY_RATE = 0.0003
SCORE_DETECTOR = "page_hinkley_score"


@dataclass(frozen=True)
class Finding:
    """What one detector found in one column of one window.

    Attributes:
        detector: A drift statistic's name, or `SCORE_DETECTOR`.
        column: Name of the column.
        distance: In the statistic's unit; of the sequential test, the window's mean score.
        p: Chance of a clean window as far off; NaN of the sequential test.
    """

    detector: str
    column: str
    distance: float
    p: float


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

    def __init__(self, reference: Reference, rate: float = FALSE_DISCOVERY_RATE) -> None:
        self.reference = reference
        self._rate = rate
        self._sequential = PageHinkley(reference.score_mean, reference.score_spread)

    def check(self, window: Floats, unread: Booleans | None = None) -> WindowResult:
        """Compare one window (N, F), the score last.

        Args:
            window: (N, F).
            unread: (N, F) values that could not be read when the decision was taken: an engine's
                outage, not a drift. They are left out.

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
        return WindowResult(len(window), distances, p, findings)

    def _drifted(
        self, distances: Mapping[str, Floats], p: Mapping[str, Floats]
    ) -> Iterator[Finding]:
        for name, part in self.reference.statistics.items():
            if not part.statistic.alarms:
                continue
            for f in np.flatnonzero(benjamini_hochberg(p[name], self._rate)):
                column = self.reference.names[f]
                yield Finding(name, column, float(distances[name][f]), float(p[name][f]))
