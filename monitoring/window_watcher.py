"""Follows one design's decisions: cuts windows, compares them, names the sources that drifted.

A new champion starts a new window and is compared with its own reference. The sources' state is
stored in the lake and outlives both.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from prometheus_client import Gauge

from monitoring.drift_monitor import DriftMonitor, WindowCutter, WindowResult
from monitoring.quality import QualitySpec
from monitoring.reference import Reference
from monitoring.sources import SourceTracker, sources_path
from services.platform.models.names import reference_path
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message
from services.platform.types import Booleans, Floats

log = logging.getLogger(__name__)

WINDOW_ROWS = Gauge("monitor_window_rows", "Decisions in the window that is open")


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
    """

    event_time_s: float
    version: int
    model: str
    values: Floats
    source: str = ""
    unread: Booleans | None = None


@dataclass(frozen=True)
class MonitorSpec:
    """What a design brings.

    Attributes:
        design: Its name.
        stream: The stream of its decisions.
        observe: Reads a decision; None leaves it out.
        new_windows: Makes an empty window.
        quality: How decisions are evaluated once labels are in.
    """

    design: str
    stream: str
    observe: Callable[[Message], Observation | None]
    new_windows: Callable[[], WindowCutter[Observation]]
    quality: QualitySpec


@dataclass(frozen=True)
class ClosedWindow:
    """A window that was compared with its reference.

    Attributes:
        begin: Event time, seconds.
        last: Its last message.
        model: "candidate:version".
        columns: (F,) names.
        result: Distances and findings.
        drifted_sources: By column that drifted, the source that moved most, where one did.
        sources: State of the source tracker, to be stored; None where it did not change.
    """

    begin: float
    last: Message
    model: str
    columns: tuple[str, ...]
    result: WindowResult
    drifted_sources: Mapping[str, str]
    sources: bytes | None


class WindowWatcher:
    """Compares windows of the champion's decisions, whichever model that is."""

    def __init__(self, lake: Lake, spec: MonitorSpec) -> None:
        self._lake = lake
        self._spec = spec
        self._windows = spec.new_windows()
        self._monitor: DriftMonitor | None = None
        self._sources: SourceTracker | None = None
        self._version = -1
        self._model = ""
        self._last: Message | None = None
        self.closed: deque[ClosedWindow] = deque()

    def take(self, batch: list[Message]) -> None:
        """Take messages; windows that they close are added to `closed`.

        Raises:
            OSError: a reference can't be read; take the same batch again.
        """
        for message in batch:
            if self._last is None or message.seq > self._last.seq:
                self._take(message)
                self._last = message
        WINDOW_ROWS.set(len(self._windows))

    def _take(self, message: Message) -> None:
        observation = self._spec.observe(message)
        if observation is None:
            return
        if observation.version != self._version:
            self._monitor = self._read_monitor(observation.version)
            self._sources = self._sources_for(observation)
            self._version, self._model = observation.version, observation.model
            self._windows = self._spec.new_windows()
        if self._monitor is None or self._sources is None:
            return
        window = self._windows.add(observation.event_time_s, observation)
        if window is not None and self._last is not None:
            self.closed.append(self._check(self._monitor, self._sources, window, self._last))

    def _check(
        self,
        monitor: DriftMonitor,
        tracker: SourceTracker,
        window: list[Observation],
        last: Message,
    ) -> ClosedWindow:
        rows, sources = np.array([one.values for one in window]), [one.source for one in window]
        result, columns = monitor.check(rows, _unread(window)), monitor.reference.names
        drifted = dict.fromkeys(f.column for f in result.findings)
        by_column = {c: tracker.drifted_source(rows, sources, columns.index(c)) for c in drifted}
        state = None
        if not drifted and any(sources):
            tracker.update(rows, sources, last.seq)
            state = tracker.to_bytes()
        return ClosedWindow(
            begin=window[0].event_time_s,
            last=last,
            model=self._model,
            columns=columns,
            result=result,
            drifted_sources={column: source for column, source in by_column.items() if source},
            sources=state,
        )

    def _sources_for(self, observation: Observation) -> SourceTracker:
        """The tracker; it knows nothing yet of another model's scores, the last column."""
        tracker = self._sources or self._read_sources() or SourceTracker(len(observation.values))
        if tracker.version != observation.version:
            tracker.reset_column(-1)
            tracker.version = observation.version
        return tracker

    def _read_sources(self) -> SourceTracker | None:
        with suppress(FileNotFoundError):
            return SourceTracker.from_bytes(self._lake.get(sources_path(self._spec.design)))
        return None

    def _read_monitor(self, version: int) -> DriftMonitor | None:
        try:
            data = self._lake.get(reference_path(self._spec.design, version))
        except FileNotFoundError:
            log.warning("version %d has no reference: its drift is not monitored", version)
            return None
        reference = Reference.from_bytes(data)
        if reference.skipped:
            names = ", ".join(reference.skipped)
            log.warning("version %d was trained before %s: skipped for this model", version, names)
        return DriftMonitor(reference)


def _unread(window: list[Observation]) -> Booleans | None:
    """(N, F) values that could not be read; None if all were."""
    if all(one.unread is None for one in window):
        return None
    none = np.zeros(len(window[0].values), dtype=bool)
    return np.array([none if one.unread is None else one.unread for one in window])
