"""Waits until a challenger has scored enough live decisions, and measures both models' calls."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds

from services.platform.models.served_model import M
from services.platform.progress import ProgressBar
from services.platform.retraining.shadow import shadow_table
from services.platform.retraining.spec import D, NoTraffic, RetrainingSpec, ShadowTraffic
from services.platform.runtime.scrape import Buckets, quantile, read_buckets
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
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


def measure_shadow(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    version: int,
    bar: ProgressBar,
    traffic: ShadowTraffic,
) -> ShadowTimings:
    """Wait until the challenger has scored enough live decisions.

    Raises:
        NoTraffic: no decisions for `traffic.timeout_s`.
    """
    before = _request_buckets(spec, settings)
    first = last = asyncio.run(_decision_count(spec, settings))
    begin = idle_since = time.monotonic()
    wanted = spec.min_shadowed
    with bar("shadowing live decisions") as step:
        while True:
            seconds = _shadow_seconds(spec, settings, version)
            step(min(len(seconds), wanted), wanted)
            timed = seconds[~np.isnan(seconds).any(axis=1)]
            traffic.on_timings(timed)
            if len(seconds) >= wanted:
                break
            now = asyncio.run(_decision_count(spec, settings))
            if now > last:
                last, idle_since = now, time.monotonic()
            waited = time.monotonic() - begin
            if not len(seconds) and last - first > _MAX_UNSCORED and waited > _MAX_UNSCORED_S:
                return _failed(last - first)
            if time.monotonic() - idle_since > traffic.timeout_s:
                raise NoTraffic(
                    f"no live decisions for {traffic.timeout_s:.0f} s, {len(seconds)} of {wanted} "
                    f"shadowed: run `whiteboard simulate {spec.design}` beside this"
                )
            time.sleep(_POLL_S)
    after = _request_buckets(spec, settings)
    return ShadowTimings(timed[:, 1], timed[:, 0], _server_p95(before, after))


def _failed(decisions: int) -> ShadowTimings:
    none = np.array([np.nan])
    reason = f"shadow: it scored none of {decisions:,} live decisions; it hangs or crashes"
    return ShadowTimings(none, none, np.nan, reason)


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


async def _decision_count(spec: RetrainingSpec[M, D], settings: Settings) -> int:
    """Number of decisions ever made."""
    nc = await connect(settings, "retraining")
    try:
        info = await nc.jetstream().stream_info(spec.decision_stream)
        return int(info.state.last_seq)
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
