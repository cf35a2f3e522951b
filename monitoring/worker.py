"""The monitor as a process: follows a design's decisions, a window at a time.

It keeps its own checkpoint, before the decisions that are in no compared window yet (ADRs 15, 18):
killed in between, it reads them again and cuts the same windows. It still acknowledges what it has
read, because the server writes its list of unacknowledged messages to disk ten times a second, and
a window is a day. What it holds in memory is one window per feed.
"""

import asyncio
import logging
import math
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue
from prometheus_client import Counter, Gauge

from monitoring.alerts import DRIFT, Alert, raise_alert
from monitoring.drift_monitor import Finding, WindowResult
from monitoring.drift_table import window_row, write_window
from monitoring.quality import COST, COST_DETECTOR, Period, QualityTracker
from monitoring.sources import sources_path
from monitoring.statistics import STATISTICS
from monitoring.window_watcher import ClosedWindow, MonitorSpec, WatcherState, WindowWatcher
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.consumer import OrderedConsumer
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "monitor"
BUCKET = "bookmarks"
_BATCH = 1_000
_QUALITY_EVERY_S = 30.0
_MAX_COLUMNS_IN_MESSAGE = 4

_UNITS = ", ".join(f"{name} in {one.unit}" for name, one in STATISTICS.all().items())
DRIFT_DISTANCE = Gauge(
    "drift_distance",
    f"Distance of a column of the last window from training: {_UNITS}",
    ["statistic", "column"],
)
ALERTS = Counter("alerts_total", "Alerts raised", ["kind"])


async def serve(config: Settings, spec: MonitorSpec) -> None:
    """Run until cancelled."""
    nc = await connect(config, f"{spec.design}-{NAME}", timeout_s=60.0)
    consumer = OrderedConsumer(nc, spec.stream, NAME, batch=_BATCH)
    lake = Lake(config)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_watch_quality(nc, QualityTracker(lake, spec.quality)))
            group.create_task(_watch_drift(nc, lake, consumer, spec))
    finally:
        await nc.close()


async def _watch_drift(
    nc: Client, lake: Lake, consumer: OrderedConsumer, spec: MonitorSpec
) -> None:
    checkpoint = await Checkpoint.open(nc.jetstream(), spec.design)
    state = await checkpoint.read()
    if state is None:
        state = WatcherState(await consumer.ack_floor())
        await checkpoint.save(state)
    if not await consumer.start(state.seq):
        state = None  # it belongs to another stream
    watcher = WindowWatcher(lake, spec, state)
    async for batch in consumer.batches():
        await retry_forever(partial(asyncio.to_thread, watcher.take, batch), "comparing windows")
        EVENTS.labels(NAME, "watched").inc(len(batch))
        while watcher.closed:
            closed = watcher.closed.popleft()
            publish = partial(_publish, nc, lake, spec.design, closed)
            await retry_forever(publish, "publishing a window")
            await retry_forever(partial(checkpoint.save, closed.state), "saving the checkpoint")
        await consumer.ack(batch[-1])


class Checkpoint:
    """Where the monitor begins again, stored beside the stream."""

    def __init__(self, bucket: KeyValue, design: str) -> None:
        self._bucket = bucket
        self._design = design

    @classmethod
    async def open(cls, js: JetStreamContext, design: str) -> "Checkpoint":
        """The checkpoint of a design's monitor."""
        return cls(await ensure_bucket(js, BUCKET), design)

    async def read(self) -> WatcherState | None:
        """The state; None where none was saved yet."""
        try:
            return WatcherState.from_bytes((await self._bucket.get(self._design)).value or b"0")
        except NotFoundError:
            return None

    async def save(self, state: WatcherState) -> None:
        """Begin again there: all windows that closed before are done."""
        await self._bucket.put(self._design, state.to_bytes())


async def _watch_quality(nc: Client, tracker: QualityTracker) -> None:
    while True:
        await retry_forever(partial(asyncio.to_thread, tracker.update), "computing quality")
        while tracker.alarms:
            period = tracker.alarms.popleft()
            publish = partial(_publish_cost_alert, nc, tracker.design, period)
            await retry_forever(publish, "publishing an alert")
        await asyncio.sleep(_QUALITY_EVERY_S)


async def _publish_cost_alert(nc: Client, design: str, period: Period) -> None:
    alert = Alert(
        at=datetime.now(UTC),
        window_begin=datetime.fromtimestamp(period.begin, UTC),
        design=design,
        kind=COST,
        model=period.model,
        said=f"the cost of a decision rose to {period.mean_cost_eur:.2f} EUR",
        findings={COST_DETECTOR: [COST]},
    )
    await raise_alert(nc.jetstream(), alert)
    ALERTS.labels(COST).inc()
    log.warning("cost: %s", alert.said)


async def _publish(nc: Client, lake: Lake, design: str, closed: ClosedWindow) -> None:
    """Show a window on /metrics, write it to the lake, and raise an alert if it has findings."""
    _show_distances(closed)
    begin = datetime.fromtimestamp(closed.begin, UTC)
    result = closed.result
    alarms = [(finding.detector, finding.column) for finding in result.findings]
    row = window_row(
        closed.last_seq, begin, closed.model, result.rows, closed.columns, result.distances, alarms
    )
    await asyncio.to_thread(write_window, lake, design, row)
    if closed.sources is not None:
        await asyncio.to_thread(lake.put, sources_path(design), closed.sources)
    if not closed.result.findings:
        return
    by_detector: dict[str, list[str]] = defaultdict(list)
    for finding in closed.result.findings:
        by_detector[finding.detector].append(finding.column)
    alert = Alert(
        at=datetime.now(UTC),
        window_begin=begin,
        design=design,
        kind=DRIFT,
        model=closed.model,
        said=_message(closed.result, closed.drifted_sources, closed.examples),
        findings=by_detector,
        sources=dict(closed.drifted_sources),
        dominated_by=closed.dominated_by,
        examples=list(closed.examples),
    )
    await raise_alert(nc.jetstream(), alert)
    ALERTS.labels(DRIFT).inc()
    log.warning("drift: %s", alert.said)


def _show_distances(closed: ClosedWindow) -> None:
    # A new champion may have other columns, or lack a statistic.
    DRIFT_DISTANCE.clear()
    for statistic, distances in closed.result.distances.items():
        for column, distance in zip(closed.columns, distances, strict=True):
            DRIFT_DISTANCE.labels(statistic, column).set(distance)


def _by_p(finding: Finding) -> tuple[bool, float]:
    return math.isnan(finding.p), finding.p


def _message(result: WindowResult, sources: Mapping[str, str], examples: Sequence[str] = ()) -> str:
    """The columns with the smallest p first, and the source that moved in most of those shown."""
    columns = dict.fromkeys(f.column for f in sorted(result.findings, key=_by_p))
    shown = list(columns)[:_MAX_COLUMNS_IN_MESSAGE]
    more = f" and {len(columns) - len(shown)} more" if len(columns) > len(shown) else ""
    counts = Counts(sources[column] for column in shown if column in sources)
    where = f", most at {counts.most_common(1)[0][0]}" if counts else ""
    look = f"; look at {', '.join(examples)}" if examples else ""
    return f"{', '.join(shown)}{more} drifted over {result.rows:,} decisions{where}{look}"
