"""Metrics and stage timings, with the same names and buckets in every service of every design.

A metric of one process stands in its module.
"""

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from time import monotonic, perf_counter

from prometheus_client import Counter, Gauge

from services.platform.latency_histogram import LatencyHistogram

log = logging.getLogger(__name__)

# Around the 50 ms budget, fine below it.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 1,
)  # fmt: skip

REQUESTS = Counter("requests_total", "Requests by route and status", ["route", "status"])
REQUEST_SECONDS = LatencyHistogram(
    "request_duration_seconds", "Time to answer", "route", LATENCY_BUCKETS
)
STAGE_SECONDS = LatencyHistogram(
    "stage_duration_seconds", "Time in a stage of a request", "stage", LATENCY_BUCKETS
)
DECISIONS = Counter("decisions_total", "Decisions taken", ["decision", "degraded"])
OUTBOX_DEPTH = Gauge("outbox_events", "Decisions waiting to be published")
OUTBOX_DROPPED = Gauge(
    "outbox_dropped_events", "Decisions dropped: the outbox was full or could not be written"
)
BUILD = Gauge("service_build_info", "1 for each process that answers", ["process", "build"])
MODEL_VERSION = Gauge("model_version", "Version of the loaded model", ["role", "candidate"])
MODEL_REFUSED = Counter("models_refused_total", "Model files refused when loading")
EVENTS = Counter("events_total", "Stream events handled", ["consumer", "outcome"])
LAG = Gauge("consumer_lag_events", "Stream events not acknowledged yet", ["consumer"])
LEFT_OUT = Counter(
    "other_feature_set_total", "Rows and decisions of another feature set, left out", ["what"]
)
# The stage in which an event is written, after its answer.
PUBLISH_STAGE = "publish"
_LOG_INTERVAL_S = 60.0


class Stages:
    """Times the stages of one request, for its `Server-Timing` header and the histograms.

    Attributes:
        times: Seconds by stage.
    """

    __slots__ = ("_last", "times")

    def __init__(self) -> None:
        self._last = perf_counter()
        self.times: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """End a stage that began when the previous one ended."""
        now = perf_counter()
        self.times[stage] = now - self._last
        self._last = now

    def add(self, stages: Mapping[str, float]) -> None:
        """Add stages timed elsewhere, seconds by name."""
        self.times.update(stages)
        self._last = perf_counter()

    def header(self) -> str:
        """Value of `Server-Timing`, milliseconds (W3C Server Timing)."""
        return ", ".join(f"{name};dur={s * 1e3:.3f}" for name, s in self.times.items())

    def observe(self) -> None:
        """Add the stages to the histograms."""
        observe_stages(self.times.items())


def observe_stages(stages: Iterable[tuple[str, float]]) -> None:
    """Add stages to the histograms, seconds each."""
    for name, seconds in stages:
        STAGE_SECONDS.observe(name, seconds)


def count_request(route: str, status: int, seconds: float) -> None:
    """Count an answered request. `route` must be a service's route, never a client's path."""
    _requests(route, status).inc()
    REQUEST_SECONDS.observe(route, seconds)


def count_decision(decision: str, degraded: bool = False) -> None:
    """Count a decision."""
    _decisions(decision, degraded).inc()


def count_left_out(what: str, count: int = 1) -> None:
    """Count rows or decisions of another feature set; log it once a minute.

    Args:
        what: Name of the rows' view, or "decision".
    """
    _left_out(what).inc(count)
    now = monotonic()
    if now - _left_out_logged.get(what, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
        _left_out_logged[what] = now
        log.warning("%s of another feature set, left out: `whiteboard rebuild`", what)


_left_out_logged: dict[str, float] = {}


# labels() takes a lock and a lookup per call; the children are few and never change.
@cache
def _requests(route: str, status: int) -> Counter:
    return REQUESTS.labels(route, str(status))


@cache
def _left_out(what: str) -> Counter:
    return LEFT_OUT.labels(what)


@cache
def _decisions(decision: str, degraded: bool) -> Counter:
    return DECISIONS.labels(decision, str(degraded).lower())
