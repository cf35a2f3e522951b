"""Follows one design's decisions: cuts windows, compares them, names the sources that drifted.

Each feed has windows of its own. A new champion starts new windows and is compared with its own
reference. The sources' state is stored in the lake and outlives both.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import orjson
from prometheus_client import Counter as CounterMetric
from prometheus_client import Gauge

from monitoring.drift_monitor import DriftMonitor, WindowResult
from monitoring.quality import QualitySpec
from monitoring.reference import Reference
from monitoring.sources import SourceTracker, sources_path
from monitoring.window_cutter import AHEAD, BEHIND, CutterState, Window, WindowCutter
from services.platform.models.names import reference_path
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message
from services.platform.types import Booleans, Floats

log = logging.getLogger(__name__)

WINDOW_ROWS = Gauge("monitor_window_rows", "Decisions in the windows that are open")
PUT_ASIDE = CounterMetric("monitor_put_aside_total", "Decisions in no window", ["reason"])
# Reasons beside those of the cutter. A feed that is silent for so many messages of the stream is
# forgotten, or the checkpoint would stay behind its first decision. Each feed may hold a whole
# window; of more feeds than these, the one that had the fewest decisions is forgotten.
SILENT, MANY_FEEDS = "silent_feed", "many_feeds"
MAX_SILENT, MAX_FEEDS = 200_000, 8
_LOG_EVERY_S = 300.0

for _reason in (AHEAD, BEHIND, SILENT, MANY_FEEDS):
    PUT_ASIDE.labels(_reason)


@dataclass(frozen=True)
class Observation:
    """One decision as the monitor sees it.

    Attributes:
        event_time_s: Event time, seconds.
        version: Of the model that decided.
        model: "candidate:version".
        values: (F,) in order of the reference's columns, the score last.
        source: Where it comes from (a station), to name the origin of a drift; empty if not asked.
        unread: (F,) values that could not be read when the decision was taken; None if all were.
        feed: The feed whose time the event time is; empty for the feed of events without one.
        subject: What it is about (an image), to show it in an alert; empty if not asked.
    """

    event_time_s: float
    version: int
    model: str
    values: Floats
    source: str = ""
    unread: Booleans | None = None
    feed: str = ""
    subject: str = ""


@dataclass(frozen=True)
class WatcherState:
    """Where a watcher begins again, so that it cuts the same windows.

    Attributes:
        seq: The stream is read again behind this sequence.
        version: Of the model whose windows are open; -1 for none.
        feeds: By feed, the state of its cutter when its last window closed.
    """

    seq: int
    version: int = -1
    feeds: Mapping[str, CutterState] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As JSON."""
        feeds = {name: state.to_json() for name, state in self.feeds.items()}
        return orjson.dumps({"seq": self.seq, "version": self.version, "feeds": feeds})

    @classmethod
    def from_bytes(cls, data: bytes) -> "WatcherState":
        """Read `to_bytes`, or a sequence alone, as it was stored before feeds had windows."""
        value = orjson.loads(data)
        if isinstance(value, int):
            return cls(value)
        feeds = {name: CutterState.from_json(state) for name, state in value["feeds"].items()}
        return cls(value["seq"], value["version"], feeds)


@dataclass(frozen=True)
class MonitorSpec:
    """What a design brings.

    Attributes:
        design: Its name.
        stream: The stream of its decisions.
        observe: Reads a decision; None leaves it out.
        new_windows: Makes an empty window.
        quality: How decisions are evaluated once labels are in.
        rising: Columns of which extreme values are counted, see `UpperTail`.
    """

    design: str
    stream: str
    observe: Callable[[Message], Observation | None]
    new_windows: Callable[[], WindowCutter[Observation]]
    quality: QualitySpec
    rising: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClosedWindow:
    """A window that was compared with its reference.

    Attributes:
        begin: Event time, seconds.
        last_seq: Sequence of its last message.
        model: "candidate:version".
        columns: (F,) names.
        result: Distances and findings.
        drifted_sources: By column that drifted, the source that moved most, where one did.
        dominated_by: The source of nearly all decisions, if others are known; empty otherwise.
        examples: Subjects of the most extreme rows, where a column has too many.
        sources: State of the source tracker, to be stored; None where it did not change.
        state: Where to begin again once the window is published.
    """

    begin: float
    last_seq: int
    model: str
    columns: tuple[str, ...]
    result: WindowResult
    drifted_sources: Mapping[str, str]
    dominated_by: str
    sources: bytes | None
    state: WatcherState
    examples: tuple[str, ...] = ()


class _Feed:
    """One feed's windows and the monitor that compares them."""

    def __init__(
        self, cutter: WindowCutter[Observation], monitor: DriftMonitor, first_seq: int
    ) -> None:
        self.cutter = cutter
        self.monitor = monitor
        self.first_seq = self.last_seq = first_seq

    @property
    def floor(self) -> int:
        """The stream must be read again behind this sequence."""
        state = self.cutter.state
        return state.floor if state.closed else self.first_seq - 1


class WindowWatcher:
    """Compares windows of the champion's decisions, whichever model that is."""

    def __init__(self, lake: Lake, spec: MonitorSpec, state: WatcherState | None = None) -> None:
        """Take nothing yet.

        Args:
            state: Where to begin again; None begins with no window open.
        """
        self._lake = lake
        self._spec = spec
        self._feeds: dict[str, _Feed] = {}
        self._reference: Reference | None = None
        self._sources: SourceTracker | None = None
        self._version = -1
        self._model = ""
        self._last_seq = 0
        self._resumed = dict(state.feeds) if state else {}
        self._resumed_version = state.version if state else -1
        self._put_aside: Counter[str] = Counter()
        self._logged_at = -_LOG_EVERY_S
        self.closed: deque[ClosedWindow] = deque()

    def take(self, batch: list[Message]) -> None:
        """Take messages; windows that they close are added to `closed`.

        Raises:
            OSError: a reference can't be read; take the same batch again.
        """
        for message in batch:
            if message.seq > self._last_seq:
                self._take(message)
                self._last_seq = message.seq
        WINDOW_ROWS.set(sum(len(feed.cutter) for feed in self._feeds.values()))
        self._log_put_aside()

    def _take(self, message: Message) -> None:
        observation = self._spec.observe(message)
        if observation is None:
            return
        if observation.version != self._version:
            self._reference = self._read_reference(observation.version)
            self._sources = self._sources_for(observation)
            self._version, self._model = observation.version, observation.model
            self._feeds = {}
            if observation.version != self._resumed_version:
                self._resumed = {}
        if observation.unread is None:
            self._model = observation.model  # what a fallback decides has that label
        if self._reference is None or self._sources is None:
            return
        feed = self._feed(observation.feed, self._reference, message.seq)
        window = feed.cutter.add(observation.event_time_s, observation, message.seq)
        feed.last_seq = message.seq
        self._count(feed.cutter.put_aside)
        feed.cutter.put_aside.clear()
        if window is not None:
            self.closed.append(self._check(feed.monitor, self._sources, window))

    def _feed(self, name: str, reference: Reference, seq: int) -> _Feed:
        """A feed, a new one if it was not seen before; others that are silent are forgotten."""
        others = [other for other in self._feeds if other != name]
        for other in others:
            if seq - self._feeds[other].last_seq > MAX_SILENT:
                self._forget(other, SILENT)
        if name not in self._feeds:
            if len(self._feeds) >= MAX_FEEDS:
                smallest = min(self._feeds, key=lambda n: self._feeds[n].cutter.taken)
                self._forget(smallest, MANY_FEEDS)
            monitor = DriftMonitor(reference, rising=self._spec.rising)
            feed = _Feed(self._spec.new_windows(), monitor, seq)
            if name in self._resumed:
                feed.cutter.resume(self._resumed.pop(name))
            self._feeds[name] = feed
        return self._feeds[name]

    def _forget(self, name: str, reason: str) -> None:
        self._count(Counter({reason: len(self._feeds.pop(name).cutter)}))

    def _count(self, put_aside: Counter[str]) -> None:
        for reason, count in put_aside.items():
            PUT_ASIDE.labels(reason).inc(count)
        self._put_aside += put_aside

    def _log_put_aside(self) -> None:
        if not self._put_aside or monotonic() - self._logged_at < _LOG_EVERY_S:
            return
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self._put_aside.items())
        log.warning("decisions put aside, in no window: %s", counts)
        self._put_aside.clear()
        self._logged_at = monotonic()

    def _state(self) -> WatcherState:
        # Feeds that were not read again yet are further on.
        feeds = dict(self._resumed)
        feeds |= {name: f.cutter.state for name, f in self._feeds.items() if f.cutter.state.closed}
        floors = [feed.floor for feed in self._feeds.values()]
        floors += [state.floor for state in self._resumed.values()]
        return WatcherState(min(floors), self._version, feeds)

    def _check(
        self, monitor: DriftMonitor, tracker: SourceTracker, window: Window[Observation]
    ) -> ClosedWindow:
        observations = window.observations
        rows = np.array([one.values for one in observations])
        sources = [one.source for one in observations]
        unread, columns = _unread(observations), monitor.reference.names
        # A reference that was stored before a column existed lacks the first ones.
        old = len(columns)
        result = monitor.check(
            rows[:, -old:], None if unread is None else unread[:, -old:], sources
        )
        drifted = dict.fromkeys(f.column for f in result.findings)
        by_column = {
            c: tracker.drifted_source(rows, sources, columns.index(c) - old) for c in drifted
        }
        by_column |= {f.column: f.source for f in result.findings if f.source}
        extreme = dict.fromkeys(observations[i].subject for f in result.findings for i in f.rows)
        tracked = None
        if not drifted and any(sources):
            tracker.update(rows, sources, window.last_seq)
            tracked = tracker.to_bytes()
        return ClosedWindow(
            begin=window.begin,
            last_seq=window.last_seq,
            model=self._model,
            columns=columns,
            result=result,
            drifted_sources={column: source for column, source in by_column.items() if source},
            dominated_by=tracker.dominating_source(sources),
            sources=tracked,
            state=self._state(),
            examples=tuple(subject for subject in extreme if subject),
        )

    def _sources_for(self, observation: Observation) -> SourceTracker:
        """The tracker; it knows nothing yet of another model's scores, the last column."""
        count = len(observation.values)
        tracker = self._sources or self._read_sources()
        if tracker is None or tracker.columns != count:
            tracker = SourceTracker(count)
        if tracker.version != observation.version:
            tracker.reset_column(-1)
            tracker.version = observation.version
        return tracker

    def _read_sources(self) -> SourceTracker | None:
        path = sources_path(self._spec.design)
        with suppress(FileNotFoundError):
            try:
                return SourceTracker.from_bytes(self._lake.get(path))
            except ValueError as error:
                log.warning("%s is unreadable (%s): the sources are learned anew", path, error)
        return None

    def _read_reference(self, version: int) -> Reference | None:
        try:
            data = self._lake.get(reference_path(self._spec.design, version))
        except FileNotFoundError:
            log.warning("version %d has no reference: its drift is not monitored", version)
            return None
        reference = Reference.from_bytes(data)
        if reference.skipped:
            names = ", ".join(reference.skipped)
            log.warning("version %d was trained before %s: skipped for this model", version, names)
        return reference


def _unread(window: list[Observation]) -> Booleans | None:
    """(N, F) values that could not be read; None if all were."""
    if all(one.unread is None for one in window):
        return None
    none = np.zeros(len(window[0].values), dtype=bool)
    return np.array([none if one.unread is None else one.unread for one in window])
