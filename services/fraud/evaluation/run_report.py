"""What a run of live traffic measured: latency, money, freshness, skew, and what was lost."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from nats.js.errors import NotFoundError

from services.fraud.features import worker as feature_worker
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.events import DECISIONS_STREAM, STREAM
from services.fraud.ingestion.tables import DECISIONS_TABLE
from services.fraud.problem import Kpi
from services.fraud.simulator.gateway import Report
from services.platform.runtime.scrape import Buckets, buckets, quantile
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect

if TYPE_CHECKING:
    from services.fraud.monitoring.skew import Audit

_SETTLE_S = 60.0


def latency(report: Report) -> dict[str, float]:
    """Percentiles of what the client waited, ms."""
    if not report.latency_ms:
        return {"p50_ms": float("nan"), "p95_ms": float("nan"), "p99_ms": float("nan")}
    p50, p95, p99 = np.percentile(report.latency_ms, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def quality(report: Report) -> dict[str, float]:
    """Precision, recall and cost (minor units) of the decisions, by the simulator's truth."""
    declined, fraud = np.array(report.declined, bool), np.array(report.fraud, bool)
    amount = np.array(report.amount, dtype=np.float64)
    hits = int((declined & fraud).sum())
    kpi = Kpi()
    return {
        "precision": hits / max(int(declined.sum()), 1),
        "recall": hits / max(int(fraud.sum()), 1),
        "frauds": int(fraud.sum()),
        "cost": kpi.total(declined, fraud, amount),
        "cost_approve_all": kpi.total(np.zeros_like(declined), fraud, amount),
    }


async def settled(config: Settings, patience_s: float = _SETTLE_S) -> bool:
    """Wait until features and lake have taken all that is in the streams. False if they do not."""
    nc = await connect(config, "scoreboard")
    js = nc.jetstream()
    durables = (
        (STREAM, feature_worker.NAME),
        (STREAM, lake_writer.NAME),
        (DECISIONS_STREAM, lake_writer.DECISIONS_NAME),
    )
    end = time.monotonic() + patience_s
    try:
        for stream, durable in durables:
            while True:
                try:
                    info = await js.consumer_info(stream, durable)
                    if not (info.num_pending or 0) + (info.num_ack_pending or 0):
                        break
                except NotFoundError:
                    pass
                if time.monotonic() > end:
                    return False
                await asyncio.sleep(0.1)
    finally:
        await nc.close()
    return True


def lost(lake: Lake, report: Report) -> int:
    """Answers whose decision is not in the lake."""
    rows = lake.read(DECISIONS_TABLE, ["decision_id"])
    kept = set() if rows is None else set(rows["decision_id"].to_pylist())
    return sum(identity not in kept for identity in report.decision_ids)


def freshness_buckets(config: Settings) -> Buckets:
    """The feature worker's freshness histogram as it stands."""
    url = f"http://{config.host}:{config.metrics_port}/metrics"
    return buckets(url, "freshness_seconds")


def figures(
    config: Settings, report: Report, freshness: tuple[Buckets, Buckets]
) -> tuple[dict[str, Any], "Audit"]:
    """Everything a run measured, and the audit in full."""
    # Feast and the graph library take many seconds to import, and live traffic needs neither.
    from services.fraud.monitoring.skew import audit

    lake = Lake(config)
    checked = audit(lake)
    before, after = freshness
    return {
        **latency(report),
        **quality(report),
        "requests": report.requests,
        "labels": report.labels,
        "failures": report.failures,
        "degraded": report.degraded,
        "errors": report.errors,
        "rate": report.requests / max(report.seconds, 1e-9),
        "lost": lost(lake, report),
        "freshness_p50_ms": quantile(before, after, 0.50) * 1e3,
        "freshness_p99_ms": quantile(before, after, 0.99) * 1e3,
        "vectors": checked.vectors,
        "mismatches": checked.mismatches,
    }, checked
