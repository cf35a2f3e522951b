"""The monitor as a process: follows a design's decisions, a window at a time.

It keeps its own place, behind the last window that was judged: killed in between, it reads the
window again from its beginning. It acknowledges what it has read all the same, for the server
writes its list of what is not acknowledged to disk ten times a second, and a window is a day. What
waits in memory is one window. A new champion begins a new window, held to its own reference. What
each source was like is kept in the lake, and outlives both.
"""

import asyncio
import logging
from collections import Counter as Counted
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue
from prometheus_client import Counter, Gauge

from monitoring.alerts import DRIFT, Alert, raise_alert
from monitoring.drift_monitor import Booleans, Checked, Monitor, Windows
from monitoring.quality import COST, DETECTOR, Bills, Ledger, Period
from monitoring.reference import STATISTICS, Reference
from monitoring.sources import Sources, past_path
from services.platform.models.served_model import reference_path
from services.platform.runtime.worker import report_lag
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import (
    Delivered,
    OrderedConsumer,
    connect,
    ensure_bucket,
    insist,
)
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "monitor"
BUCKET = "bookmarks"
_BATCH = 1_000
_QUALITY_EVERY_S = 30.0

DRIFT_PSI = Gauge("drift_psi", "PSI of a column in the last window", ["column"])
DRIFT_KS = Gauge("drift_ks", "KS statistic of a column in the last window", ["column"])
DRIFT_MISSING = Gauge("drift_missing_share", "Change of a column's missing share", ["column"])
WINDOW_ROWS = Gauge("monitor_window_rows", "Decisions in the window that is open")
ALERTS = Counter("alerts_total", "Alerts raised", ["kind"])

DRIFT_TABLE = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("columns", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.list_(pa.float64()), nullable=False) for name in STATISTICS),
        pa.field("alarms", pa.list_(pa.string()), nullable=False),
    ]
)


def drift_table(design: str) -> str:
    """The lake's table of a design's windows."""
    return f"{design}/drift"


@dataclass(frozen=True)
class Observed:
    """One decision as the monitor sees it.

    Attributes:
        at: Event time, seconds. values: (F,), the score last.
        source: Whose it is, to name where a drift comes from; empty where that is no question.
        unread: (F,) which values could not be read when it was decided, None where all were.
    """

    at: float
    version: int
    model: str
    values: npt.NDArray[np.float64]
    source: str = ""
    unread: Booleans | None = None


@dataclass(frozen=True)
class Watched:
    """What a design brings.

    Attributes:
        observe: Reads a decision with what a reference names; None to leave it out.
        windows: Makes an empty window.
        bills: How its decisions are judged once labels are in.
    """

    design: str
    stream: str
    observe: Callable[[Delivered], Observed | None]
    windows: Callable[[], Windows[Observed]]
    bills: Bills


@dataclass(frozen=True)
class Closed:
    """A window that was judged.

    Attributes:
        begin: Event time, seconds. last: Its last message.
        blamed: By column that drifted, the source that moved most, where one did.
        past: What the sources were like by then, to be kept; None where nothing was learnt.
    """

    begin: float
    last: Delivered
    model: str
    columns: tuple[str, ...]
    checked: Checked
    blamed: Mapping[str, str]
    past: bytes | None


class Watch:
    """Follows the decisions of whatever model is champion."""

    def __init__(self, lake: Lake, watched: Watched) -> None:
        self._lake = lake
        self._watched = watched
        self._windows = watched.windows()
        self._monitor: Monitor | None = None
        self._sources: Sources | None = None
        self._version = -1
        self._model = ""
        self._last: Delivered | None = None
        self.closed: deque[Closed] = deque()

    def take(self, batch: list[Delivered]) -> None:
        """Take messages; windows that they close are added to `closed`.

        Raises:
            OSError: a reference can't be read; take the same batch again.
        """
        for message in batch:
            if self._last is None or message.seq > self._last.seq:
                self._take(message)
                self._last = message
        WINDOW_ROWS.set(len(self._windows))

    def _take(self, message: Delivered) -> None:
        observed = self._watched.observe(message)
        if observed is None:
            return
        if observed.version != self._version:
            self._monitor = self._monitor_of(observed.version)
            self._sources = self._sources_of(observed)
            self._version, self._model = observed.version, observed.model
            self._windows = self._watched.windows()
        if self._monitor is None or self._sources is None:
            return
        window = self._windows.add(observed.at, observed)
        if window is not None and self._last is not None:
            self.closed.append(self._judge(self._monitor, self._sources, window, self._last))

    def _judge(
        self,
        monitor: Monitor,
        sources: Sources,
        window: list[Observed],
        last: Delivered,
    ) -> Closed:
        rows, whose = np.array([one.values for one in window]), [one.source for one in window]
        checked, columns = monitor.check(rows, _unread(window)), monitor.reference.names
        drifted = dict.fromkeys(f.column for f in checked.findings)
        by_column = {c: sources.blame(rows, whose, columns.index(c)) for c in drifted}
        past = None
        if not drifted and any(whose):
            sources.learn(rows, whose, last.seq)
            past = sources.to_bytes()
        blamed = {column: source for column, source in by_column.items() if source}
        return Closed(window[0].at, last, self._model, columns, checked, blamed, past)

    def _sources_of(self, observed: Observed) -> Sources:
        """What the sources are like; of another model's answers, the last column, nothing yet."""
        sources = self._sources or self._kept() or Sources(len(observed.values))
        if sources.version != observed.version:
            sources.forget(-1)
            sources.version = observed.version
        return sources

    def _kept(self) -> Sources | None:
        with suppress(FileNotFoundError):
            return Sources.from_bytes(self._lake.get(past_path(self._watched.design)))
        return None

    def _monitor_of(self, version: int) -> Monitor | None:
        try:
            data = self._lake.get(reference_path(self._watched.design, version))
        except FileNotFoundError:
            log.warning("version %d has no reference: it is not watched", version)
            return None
        return Monitor(Reference.from_bytes(data))


def _unread(window: list[Observed]) -> Booleans:
    """(N, F) what could not be read."""
    none = np.zeros(len(window[0].values), dtype=bool)
    return np.array([none if one.unread is None else one.unread for one in window])


async def serve(config: Settings, watched: Watched) -> None:
    """Run until cancelled."""
    nc = await connect(config, f"{watched.design}-{NAME}", patience_s=60.0)
    consumer = OrderedConsumer(nc, watched.stream, NAME, batch=_BATCH)
    lake = Lake(config)
    watch = Watch(lake, watched)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_watch_quality(nc, Ledger(lake, watched.bills)))
            group.create_task(_watch_drift(nc, lake, consumer, watch, watched.design))
    finally:
        await nc.close()


async def _watch_drift(
    nc: Client, lake: Lake, consumer: OrderedConsumer, watch: Watch, design: str
) -> None:
    bookmark = await Bookmark.open(nc.jetstream(), design)
    after = await bookmark.read()
    if after is None:
        after = await consumer.floor()
        await bookmark.keep(after)
    await consumer.start(after)
    async for batch in consumer.batches():
        await insist(partial(asyncio.to_thread, watch.take, batch), "watching")
        EVENTS.labels(NAME, "watched").inc(len(batch))
        while watch.closed:
            closed = watch.closed.popleft()
            await insist(partial(_tell, nc, lake, design, closed), "telling")
            await insist(partial(bookmark.keep, closed.last.seq), "the bookmark")
        await consumer.ack(batch[-1])


class Bookmark:
    """Behind which decision the window that is open begins, kept beside the stream."""

    def __init__(self, bucket: KeyValue, design: str) -> None:
        self._bucket = bucket
        self._design = design

    @classmethod
    async def open(cls, js: JetStreamContext, design: str) -> "Bookmark":
        """That of a design's monitor."""
        return cls(await ensure_bucket(js, BUCKET), design)

    async def read(self) -> int | None:
        """A sequence; None where nobody kept one yet."""
        try:
            return int((await self._bucket.get(self._design)).value or 0)
        except NotFoundError:
            return None

    async def keep(self, seq: int) -> None:
        """All windows up to a sequence were judged."""
        await self._bucket.put(self._design, b"%d" % seq)


async def _watch_quality(nc: Client, ledger: Ledger) -> None:
    while True:
        await insist(partial(asyncio.to_thread, ledger.look), "the bill")
        while ledger.alarms:
            await insist(partial(_tell_cost, nc, ledger.design, ledger.alarms.popleft()), "telling")
        await asyncio.sleep(_QUALITY_EVERY_S)


async def _tell_cost(nc: Client, design: str, period: Period) -> None:
    alert = Alert(
        at=datetime.now(UTC),
        window_begin=datetime.fromtimestamp(period.begin, UTC),
        design=design,
        kind=COST,
        model=period.model,
        said=f"a decision costs {period.mean_cost_eur:.2f} EUR, and did not before",
        findings={DETECTOR: [COST]},
    )
    await raise_alert(nc.jetstream(), alert)
    ALERTS.labels(COST).inc()
    log.warning("cost: %s", alert.said)


async def _tell(nc: Client, lake: Lake, design: str, closed: Closed) -> None:
    """Show a window on /metrics, keep it in the lake, and raise an alert if it is out of order."""
    checked, columns = closed.checked, list(closed.columns)
    for gauge, values in zip((DRIFT_PSI, DRIFT_KS, DRIFT_MISSING), checked.distances, strict=True):
        for column, value in zip(columns, values, strict=True):
            gauge.labels(column).set(value)
    await asyncio.to_thread(_keep, lake, design, closed)
    if closed.past is not None:
        await asyncio.to_thread(lake.put, past_path(design), closed.past)
    if not checked.findings:
        return
    by_detector: dict[str, list[str]] = defaultdict(list)
    for finding in checked.findings:
        by_detector[finding.detector].append(finding.column)
    alert = Alert(
        at=datetime.now(UTC),
        window_begin=datetime.fromtimestamp(closed.begin, UTC),
        design=design,
        kind=DRIFT,
        model=closed.model,
        said=_said(checked, closed.blamed),
        findings=by_detector,
        sources=dict(closed.blamed),
    )
    await raise_alert(nc.jetstream(), alert)
    ALERTS.labels(DRIFT).inc()
    log.warning("drift: %s", alert.said)


def _said(checked: Checked, blamed: Mapping[str, str]) -> str:
    """The plainest columns first, and the source that moved in most of those shown."""
    columns = dict.fromkeys(f.column for f in sorted(checked.findings, key=lambda f: f.p))
    shown = list(columns)[:4]
    more = f" and {len(columns) - len(shown)} more" if len(columns) > len(shown) else ""
    sources = Counted(blamed[column] for column in shown if column in blamed)
    where = f", most at {sources.most_common(1)[0][0]}" if sources else ""
    return f"{', '.join(shown)}{more} drifted over {checked.rows:,} decisions{where}"


def _keep(lake: Lake, design: str, closed: Closed) -> None:
    checked = closed.checked
    row = {
        "seq": closed.last.seq,
        "event_time": datetime.fromtimestamp(closed.begin, UTC),
        "model": closed.model,
        "rows": checked.rows,
        "columns": list(closed.columns),
        **{s: list(v) for s, v in zip(STATISTICS, checked.distances, strict=True)},
        "alarms": sorted({f"{f.detector}:{f.column}" for f in checked.findings}),
    }
    table = pa.Table.from_pylist([row], schema=DRIFT_TABLE)
    lake.write(drift_table(design), table, f"{closed.last.seq:012d}")
