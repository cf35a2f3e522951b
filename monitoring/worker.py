"""The monitor as a process: follows a design's decisions, a window at a time.

It keeps its own checkpoint, behind the last window that it compared (ADR 15): killed in between, it
reads the window again from its beginning. It still acknowledges what it has read, because the
server writes its list of unacknowledged messages to disk ten times a second, and a window is a day.
What it holds in memory is one window.
"""

import asyncio
import logging
import math
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping
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
from monitoring.window_watcher import ClosedWindow, MonitorSpec, WindowWatcher
from services.platform.runtime.worker import report_lag
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.consumer import OrderedConsumer
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "monitor"
BUCKET = "bookmarks"
_BATCH = 1_000
_QUALITY_EVERY_S = 30.0
_MAX_COLUMNS_IN_MESSAGE = 4

DRIFT_DISTANCE = Gauge(
    "drift_distance", "Distance of a column of the last window from training, in the statistic's "
    "unit", ["statistic", "column"],
)  # fmt: skip
ALERTS = Counter("alerts_total", "Alerts raised", ["kind"])


async def serve(config: Settings, spec: MonitorSpec) -> None:
    """Run until cancelled."""
    nc = await connect(config, f"{spec.design}-{NAME}", timeout_s=60.0)
    consumer = OrderedConsumer(nc, spec.stream, NAME, batch=_BATCH)
    lake = Lake(config)
    watcher = WindowWatcher(lake, spec)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_watch_quality(nc, QualityTracker(lake, spec.quality)))
            group.create_task(_watch_drift(nc, lake, consumer, watcher, spec.design))
    finally:
        await nc.close()


async def _watch_drift(
    nc: Client, lake: Lake, consumer: OrderedConsumer, watcher: WindowWatcher, design: str
) -> None:
    checkpoint = await Checkpoint.open(nc.jetstream(), design)
    after = await checkpoint.read()
    if after is None:
        after = await consumer.ack_floor()
        await checkpoint.save(after)
    await consumer.start(after)
    async for batch in consumer.batches():
        await retry_forever(partial(asyncio.to_thread, watcher.take, batch), "comparing windows")
        EVENTS.labels(NAME, "watched").inc(len(batch))
        while watcher.closed:
            closed = watcher.closed.popleft()
            await retry_forever(partial(_publish, nc, lake, design, closed), "publishing a window")
            await retry_forever(partial(checkpoint.save, closed.last.seq), "saving the checkpoint")
        await consumer.ack(batch[-1])


class Checkpoint:
    """Sequence of the decision behind which the open window begins, stored beside the stream."""

    def __init__(self, bucket: KeyValue, design: str) -> None:
        self._bucket = bucket
        self._design = design

    @classmethod
    async def open(cls, js: JetStreamContext, design: str) -> "Checkpoint":
        """The checkpoint of a design's monitor."""
        return cls(await ensure_bucket(js, BUCKET), design)

    async def read(self) -> int | None:
        """A sequence; None where none was saved yet."""
        try:
            return int((await self._bucket.get(self._design)).value or 0)
        except NotFoundError:
            return None

    async def save(self, seq: int) -> None:
        """All windows up to a sequence are done."""
        await self._bucket.put(self._design, b"%d" % seq)


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
    row = window_row(closed.last.seq, begin, closed.model, closed.columns, closed.result)
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
        said=_message(closed.result, closed.drifted_sources),
        findings=by_detector,
        sources=dict(closed.drifted_sources),
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


def _message(result: WindowResult, sources: Mapping[str, str]) -> str:
    """The columns with the smallest p first, and the source that moved in most of those shown."""
    columns = dict.fromkeys(f.column for f in sorted(result.findings, key=_by_p))
    shown = list(columns)[:_MAX_COLUMNS_IN_MESSAGE]
    more = f" and {len(columns) - len(shown)} more" if len(columns) > len(shown) else ""
    counts = Counts(sources[column] for column in shown if column in sources)
    where = f", most at {counts.most_common(1)[0][0]}" if counts else ""
    return f"{', '.join(shown)}{more} drifted over {result.rows:,} decisions{where}"
