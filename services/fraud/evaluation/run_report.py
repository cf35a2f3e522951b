"""The report of a run of live traffic: latency, cost, freshness, skew and lost decisions."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nats.js.errors import NotFoundError

from services.fraud.features.ownership.assignment import present_assignment
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.events import DECISIONS_STREAM, STREAM
from services.fraud.ingestion.tables import DECISIONS_TABLE
from services.fraud.problem import APPROVE, OUTCOMES, CostModel
from services.fraud.review.live import present_costs
from services.fraud.review.queue import review_wait_p95_s
from services.fraud.simulator.gateway import TrafficReport
from services.platform.evaluation.cost import COST_UNIT
from services.platform.evaluation.latency import percentiles_ms
from services.platform.runtime.scrape import Buckets, quantile
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import unacknowledged

if TYPE_CHECKING:
    from services.fraud.monitoring.skew import Audit

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Delays:
    """Histograms of delays at one time.

    Attributes:
        features: From storing an event until its state is readable.
        reasons: From a decision until its reasons are stored.
    """

    features: Buckets
    reasons: Buckets


def quality(report: TrafficReport, costs: CostModel) -> dict[str, float]:
    """Outcomes, and precision, recall and cost (minor units) where the truth is known.

    Reviewed cases count as stopped in precision and recall; in the cost, at the analysts' mean
    error.

    Args:
        costs: The present costs.
    """
    known = np.array([fraud is not None for fraud in report.fraud], bool)
    outcome = np.array([OUTCOMES.index(one) for one in report.outcome], np.int64)[known]
    fraud, amount = np.array(report.fraud)[known] == 1, np.array(report.amount, float)[known]
    stopped = outcome != APPROVE
    hits = int((stopped & fraud).sum())
    by_threshold = (np.array(report.score) >= np.array(report.threshold))[known]
    return {
        "approved": report.outcome.count("approve"),
        "reviewed": report.outcome.count("review"),
        "declined": report.outcome.count("decline"),
        "precision": hits / max(int(stopped.sum()), 1),
        "recall": hits / max(int(fraud.sum()), 1),
        "frauds": int(fraud.sum()),
        "cost": costs.total(outcome, fraud, amount),
        "cost_one_threshold": costs.total(by_threshold, fraud, amount),
        "cost_approve_all": costs.total(np.zeros_like(fraud), fraud, amount),
    }


def traffic_figures(report: TrafficReport, costs: CostModel) -> dict[str, Any]:
    """What the gateway measured: latency (ms), quality and counts of a run.

    Args:
        costs: The present costs.
    """
    return {
        **percentiles_ms(report.latency_ms),
        **quality(report, costs),
        "cost_unit": COST_UNIT,
        "requests": report.requests,
        "controls": report.controls,
        "labels": report.labels,
        "labels_withheld": report.withheld,
        "failures": report.failures,
        "degraded": report.degraded,
        "errors": report.errors,
    }


async def wait_until_processed(config: Settings, timeout_s: float = _TIMEOUT_S) -> bool:
    """Wait until feature worker and lake writer have processed their streams.

    Returns:
        False if they have not within `timeout_s` seconds.
    """
    nc = await connect(config, "run report")
    js = nc.jetstream()
    durables = (
        *((STREAM, name) for name in present_assignment(config).durables),
        (STREAM, lake_writer.NAME),
        (DECISIONS_STREAM, lake_writer.DECISIONS_NAME),
    )
    end = time.monotonic() + timeout_s
    try:
        for stream, durable in durables:
            while True:
                try:
                    if not await unacknowledged(js, stream, durable):
                        break
                except NotFoundError:
                    pass
                if time.monotonic() > end:
                    return False
                await asyncio.sleep(0.1)
    finally:
        await nc.close()
    return True


def lost_decisions(lake: Lake, report: TrafficReport) -> int:
    """Number of answers whose decision is not in the lake."""
    rows = lake.read(DECISIONS_TABLE, ["decision_id"])
    stored = set() if rows is None else set(rows["decision_id"].to_pylist())
    return sum(identity not in stored for identity in report.decision_ids)


def run_report(
    config: Settings, report: TrafficReport, before: Delays, after: Delays
) -> tuple[dict[str, Any], "Audit"]:
    """All figures of a run, and the full skew audit.

    Args:
        config: Where the stack runs.
        report: What the gateway measured.
        before: Delays before the run.
        after: Delays after the run.
    """
    # The audit's imports are slow and live traffic does not need them.
    from services.fraud.monitoring.skew import audit_with_rules

    lake = Lake(config)
    checked = audit_with_rules(config)
    return {
        **traffic_figures(report, asyncio.run(present_costs(config))),
        "review_wait_p95_s": review_wait_p95_s(lake, report.decision_ids),
        "reasons_p95_ms": quantile(before.reasons, after.reasons, 0.95) * 1e3,
        "rate": report.requests / max(report.seconds, 1e-9),
        "lost": lost_decisions(lake, report),
        "freshness_p50_ms": quantile(before.features, after.features, 0.50) * 1e3,
        "freshness_p99_ms": quantile(before.features, after.features, 0.99) * 1e3,
        "vectors": checked.vectors,
        "mismatches": checked.mismatches,
    }, checked
