"""The monitor itself: windows in, alarms out. It does no input or output.

Three statistics are compared for every column, the chances corrected for how many there are, and a
sequential test watches the mean score. One window is enough for an alarm; the same alarm is not
raised again while it lasts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from monitoring.multiple_testing import benjamini_hochberg
from monitoring.reference import STATISTICS, Reference
from monitoring.statistics.page_hinkley import Sequential

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
T = TypeVar("T")

# Of clean windows, so many raise a false alarm at each statistic.
FALSE_DISCOVERIES = 0.0003
SEQUENTIAL = "page_hinkley_score"


@dataclass(frozen=True)
class Finding:
    """What one window showed of one column by one detector."""

    detector: str
    column: str
    distance: float
    p: float


@dataclass(frozen=True)
class Checked:
    """A window's outcome. distances, p: (S, F). findings: What is out of the ordinary."""

    rows: int
    distances: Floats
    p: Floats
    findings: list[Finding]


class Monitor:
    """Compares windows of one model's decisions with its reference."""

    def __init__(self, reference: Reference, rate: float = FALSE_DISCOVERIES) -> None:
        self.reference = reference
        self._rate = rate
        self._sequential = Sequential(reference.score_mean, reference.score_spread)

    def check(self, window: Floats, unread: Booleans | None = None) -> Checked:
        """Look at one window (N, F), the score last.

        Args:
            unread: (N, F) what could not be read when it was decided: an engine's outage, not a
                drift. It is left out.

        Raises:
            ValueError: it is empty.
        """
        if not len(window):
            raise ValueError("an empty window shows nothing")
        distances = self.reference.distances(window, unread)
        p = self.reference.p_values(distances)
        findings = [*self._compared(distances, p)]
        scores = window[:, -1] if unread is None else window[~unread[:, -1], -1]
        mean = float(np.nanmean(scores)) if len(scores) else self.reference.score_mean
        if self._sequential.update(mean):
            findings.append(Finding(SEQUENTIAL, self.reference.names[-1], mean, float("nan")))
        return Checked(len(window), distances, p, findings)

    def _compared(self, distances: Floats, p: Floats) -> Iterator[Finding]:
        for s, statistic in enumerate(STATISTICS):
            for f in np.flatnonzero(benjamini_hochberg(p[s], self._rate)):
                name = self.reference.names[f]
                yield Finding(statistic, name, float(distances[s, f]), float(p[s, f]))


@dataclass
class Windows(Generic[T]):
    """Cuts a stream of observations into windows of a span of time, or of a count.

    Attributes:
        span: Seconds of event time a window lasts; 0 cuts by count alone.
        least, most: How many a window has to have, and may have: what waits is bounded by it.
    """

    span: float
    least: int
    most: int
    _open: list[T] = field(default_factory=list)
    _begin: float = float("nan")

    def add(self, at: float, observed: T) -> list[T] | None:
        """Take what was observed at a time. Returns a window that it closes."""
        closed = None
        over = self.span and self._open and at - self._begin >= self.span
        if (over and len(self._open) >= self.least) or len(self._open) >= self.most:
            closed, self._open = self._open, []
        if not self._open:
            self._begin = at
        self._open.append(observed)
        return closed

    def __len__(self) -> int:
        return len(self._open)
