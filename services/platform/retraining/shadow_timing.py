"""Waits until a challenger has scored enough live decisions, and measures both models' calls."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds

from services.platform.models.served_model import M
from services.platform.progress import ProgressBar
from services.platform.retraining.shadow import NAME, shadow_table
from services.platform.retraining.spec import D, NoTraffic, RetrainingSpec, ShadowTraffic
from services.platform.runtime.scrape import Buckets, quantile, read_buckets
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import acknowledged_deliveries
from services.platform.types import Floats

# A challenger that scores nothing while this many decisions pass, and for this long, has failed.
# Its worker takes idle time only: on a busy machine it needs a while to probe and load the file.
_MAX_UNSCORED, _MAX_UNSCORED_S = 3_000, 60.0
_POLL_S = 1.0


@dataclass(frozen=True)
class ShadowTimings:
    """What shadow mode measured.

    Attributes:
        champion_s: (K,) seconds of the champion's calls.
        challenger_s: (K,) seconds of the challenger's calls.
        server_p95_s: p95 of the server's responses, serving the champion.
        failure: Why nothing was measured, empty otherwise.
    """

    champion_s: Floats
    challenger_s: Floats
    server_p95_s: float
    failure: str = ""


@dataclass(frozen=True)
class _Progress:
    """How far the stream of decisions is, and shadow mode in it.

    Attributes:
        made: Decisions ever made.
        handled: Of them, those that shadow mode has dealt with since its consumer was made.
    """

    made: int
    handled: int

    def handled_since(self, first: "_Progress") -> int:
        """Decisions dealt with since; the consumer may have been made again meanwhile."""
        return self.handled - first.handled if self.handled >= first.handled else self.handled


def measure_shadow(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    version: int,
    bar: ProgressBar,
    traffic: ShadowTraffic,
) -> ShadowTimings:
    """Wait until the challenger has scored enough live decisions.

    A decision that shadow mode has dealt with without a score, while it has none at all, is no
    evidence against the challenger: its inputs were not kept.

    Raises:
        NoTraffic: no decisions that can be shadowed for `traffic.timeout_s`.
    """
    before = _request_buckets(spec, settings)
    first = asyncio.run(_progress(spec, settings))
    begin = idle_since = time.monotonic()
    wanted, most_missed = spec.min_shadowed, 0
    with bar("shadowing live decisions") as step:
        while True:
            seconds = _shadow_seconds(spec, settings, version)
            step(min(len(seconds), wanted), wanted)
            timed = seconds[~np.isnan(seconds).any(axis=1)]
            traffic.on_timings(timed)
            if len(seconds) >= wanted:
                break
            now = asyncio.run(_progress(spec, settings))
            unusable = 0 if len(seconds) else now.handled_since(first)
            missed = now.made - first.made - unusable
            if missed > most_missed:
                most_missed, idle_since = missed, time.monotonic()
            waited = time.monotonic() - begin
            if not len(seconds) and missed > _MAX_UNSCORED and waited > _MAX_UNSCORED_S:
                return _failed(missed)
            if time.monotonic() - idle_since > traffic.timeout_s:
                raise NoTraffic(_reason(spec, traffic, len(seconds), unusable))
            time.sleep(_POLL_S)
    after = _request_buckets(spec, settings)
    return ShadowTimings(timed[:, 1], timed[:, 0], _server_p95(before, after))


def _failed(decisions: int) -> ShadowTimings:
    none = np.array([np.nan])
    reason = f"shadow: it scored none of {decisions:,} live decisions; it hangs or crashes"
    return ShadowTimings(none, none, np.nan, reason)


def _reason(
    spec: RetrainingSpec[M, D], traffic: ShadowTraffic, shadowed: int, unusable: int
) -> str:
    """Why there is nothing to shadow, and what to do."""
    if unusable:
        return (
            f"none of {unusable:,} live decisions can be shadowed: their inputs are not kept, as "
            "those of posted images and of degraded decisions. Send images by the store, or run "
            f"`whiteboard simulate {spec.design}` beside this"
        )
    return (
        f"no live decisions for {traffic.timeout_s:.0f} s, {shadowed} of {spec.min_shadowed} "
        f"shadowed: run `whiteboard simulate {spec.design}` beside this"
    )


def _server_p95(before: Buckets, after: Buckets) -> float:
    """The server's p95 between two reads; since its start if there were no requests in between."""
    between = quantile(before, after, 0.95)
    return float(np.nan_to_num(quantile({}, after, 0.95) if np.isnan(between) else between))


def _request_buckets(spec: RetrainingSpec[M, D], settings: Settings) -> Buckets:
    try:
        url = f"{spec.url(settings)}/metrics"
        return read_buckets(url, "request_duration_seconds", {"route": spec.route})
    except OSError:
        return {}


async def _progress(spec: RetrainingSpec[M, D], settings: Settings) -> _Progress:
    nc = await connect(settings, "retraining")
    js = nc.jetstream()
    try:
        made = (await js.stream_info(spec.decision_stream)).state.last_seq
        handled = await acknowledged_deliveries(js, spec.decision_stream, NAME)
        return _Progress(int(made), handled)
    finally:
        await nc.close()


def _shadow_seconds(spec: RetrainingSpec[M, D], settings: Settings, version: int) -> Floats:
    """(K, 2) seconds of the challenger's and the champion's calls, NaN where not timed."""
    columns = ["version", "seconds", "champion_seconds"]
    table = shadow_table(spec.design)
    rows = Lake(settings).read(table, columns, ds.field("version") == version)
    if rows is None:
        return np.zeros((0, 2))
    return np.column_stack([rows[name].to_numpy() for name in columns[1:]])
