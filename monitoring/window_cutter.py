"""Cuts the observations of one feed into windows that a few far-off event times cannot move.

A window lasts a span of event time. The feed's progress is the median event time of its last
observations, in order of arrival. A window closes when the progress has passed its end. An
observation further than a span from where the feed is waits until the feed comes there, and is put
aside if it does not (ADR 18).

A cutter begins again from a `CutterState` when the stream is read again from `CutterState.floor`:
the windows after that are the same.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

# Observations whose median is the feed's progress: 50 far-off ones in a row do not move it.
RECENT = 101
AHEAD, BEHIND = "ahead", "behind"


class _Row(NamedTuple, Generic[T]):
    """One observation: its number in the feed, stream sequence and event time (seconds)."""

    number: int
    seq: int
    at: float
    observation: T


@dataclass(frozen=True)
class Window(Generic[T]):
    """A window that closed.

    Attributes:
        begin: Event time of its first observation, seconds.
        last_seq: Stream sequence of the last to arrive.
        observations: In order of arrival.
    """

    begin: float
    last_seq: int
    observations: list[T]


@dataclass(frozen=True)
class CutterState:
    """What a cutter knew when a window closed.

    Attributes:
        closed: Sequence of the observation that closed the window; 0 before the first.
        number: Number of that observation.
        held: By sequence, the numbers of the observations that are in no window yet.
        recent: Event times of the last observations, in order of arrival, seconds.
    """

    closed: int = 0
    number: int = 0
    held: Mapping[int, int] = field(default_factory=dict)
    recent: tuple[float, ...] = ()

    @property
    def floor(self) -> int:
        """The stream must be read again behind this sequence."""
        return min(self.held, default=self.closed + 1) - 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        held = [[seq, number] for seq, number in self.held.items()]
        return {"closed": self.closed, "number": self.number, "held": held, "recent": self.recent}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CutterState":
        """From JSON values of `to_json`."""
        held = {int(seq): int(number) for seq, number in value["held"]}
        return cls(value["closed"], value["number"], held, tuple(value["recent"]))


class WindowCutter(Generic[T]):
    """Cuts one feed into windows of a span of time, or of a count.

    Attributes:
        put_aside: Observations that are in no window, by reason, to be taken.
        state: The state when the last window closed.
    """

    def __init__(self, span_s: float, min_rows: int, max_rows: int, recent: int = RECENT) -> None:
        """Hold no window yet.

        Args:
            span_s: Seconds of event time a window lasts; 0 cuts by count alone.
            min_rows: Observations that a window needs to close by time.
            max_rows: Observations that close a window; bounds the memory.
            recent: Observations whose median is the progress.
        """
        self.span_s, self.min_rows, self.max_rows = span_s, min_rows, max_rows
        self._recent: deque[float] = deque(maxlen=recent)
        self._sorted: list[float] = []
        self._open: list[_Row[T]] = []
        self._next: list[_Row[T]] = []
        self._waiting: list[_Row[T]] = []
        self._begin = float("nan")
        self._number = 0
        self._resume_until = 0
        self.put_aside: Counter[str] = Counter()
        self.state = CutterState()

    def resume(self, state: CutterState) -> None:
        """Continue from a state; the stream is read again from its floor."""
        self.state, self._number, self._resume_until = state, state.number, state.closed
        self._recent.extend(state.recent)
        self._sorted = sorted(self._recent)

    def add(self, at: float, observation: T, seq: int = 0) -> Window[T] | None:
        """Take an observation of an event time (seconds) and a sequence of the stream.

        Returns:
            The window that it closes.
        """
        if seq and seq <= self._resume_until:
            self._read_again(at, observation, seq)
            return None
        self._number += 1
        self._observe(at)
        closed = self._close_if_due(seq)
        self._waiting.append(_Row(self._number, seq, at, observation))
        if closed:
            held = {row.seq: row.number for row in self._waiting}
            self.state = CutterState(seq, self._number, held, tuple(self._recent))
        self._place()
        return closed

    def __len__(self) -> int:
        return len(self._open) + len(self._next) + len(self._waiting)

    @property
    def taken(self) -> int:
        """Number of observations that it was given."""
        return self._number

    def _read_again(self, at: float, observation: T, seq: int) -> None:
        """Take an observation that was taken before the state: hold it if it was held."""
        if seq in self.state.held:
            self._waiting.append(_Row(self.state.held[seq], seq, at, observation))
        if seq == self._resume_until:
            self._place()

    def _observe(self, at: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(at)
        insort(self._sorted, at)

    @property
    def _progress(self) -> float:
        """The median event time of the last observations; NaN before there are enough."""
        if len(self._recent) < (self._recent.maxlen or 0):
            return float("nan")
        return self._sorted[len(self._sorted) // 2]

    def _close_if_due(self, seq: int) -> Window[T] | None:
        if len(self._open) >= self.max_rows:
            return self._close()
        if not self.span_s or isnan(self._begin):
            return None
        if self._progress < self._begin - self.span_s:
            return self._go_back()
        if not self._progress >= self._begin + self.span_s:
            return None
        # A window of too few goes on beyond its end.
        missing = max(self.min_rows - len(self._open), 0)
        self._open, self._next = self._open + self._next[:missing], self._next[missing:]
        return self._close() if len(self._open) >= self.min_rows else None

    def _close(self) -> Window[T]:
        rows, self._open = self._open, []
        # In order of arrival: the observations of the next window may lie before or behind those
        # that wait.
        self._waiting = sorted([*self._next, *self._waiting])
        self._next, self._begin = [], float("nan")
        begin = min(row.at for row in rows)
        return Window(begin, max(row.seq for row in rows), [row.observation for row in rows])

    def _go_back(self) -> Window[T] | None:
        """The feed began again at an earlier time, so nothing more comes for the open window."""
        if len(self._open) >= self.min_rows:
            return self._close()
        self.put_aside[AHEAD] += len(self._open) + len(self._next)
        self._open, self._next, self._begin = [], [], float("nan")
        return None

    def _place(self) -> None:
        """Put the waiting observations where they belong, once it is known where the feed is."""
        if not self.span_s:
            self._open.extend(self._waiting)
            self._waiting = []
            return
        progress = self._progress
        if isnan(progress):
            return
        if isnan(self._begin):
            near = [row.at for row in self._waiting if abs(row.at - progress) <= self.span_s]
            if not near:
                return
            self._begin = min(near)
        low, high = self._begin - self.span_s, progress + self.span_s
        waiting = []
        for row in self._waiting:
            if low <= row.at <= high:
                is_next = row.at >= self._begin + self.span_s
                (self._next if is_next else self._open).append(row)
            elif row.number + len(self._recent) > self._number:
                waiting.append(row)
            else:
                self.put_aside[AHEAD if row.at > high else BEHIND] += 1
        self._waiting = waiting
