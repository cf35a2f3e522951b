"""Live traffic: what `simulate` and `demo` play into the running stack, and how it is shown."""

import asyncio
from contextlib import suppress
from math import isnan
from typing import Any

import uvloop

from services.fraud.evaluation.run_report import (
    Delays,
    run_report,
    traffic_figures,
    wait_until_processed,
)
from services.fraud.problem import LATENCY_BUDGET_MS
from services.fraud.review.live import present_costs
from services.fraud.simulator.drift import Drift
from services.fraud.simulator.gateway import TrafficReport
from services.fraud.simulator.live import simulate_live
from services.platform.hooks import DemoRequest, Figures, Table, TrafficRequest, mark
from services.platform.progress import ProgressBar
from services.platform.runtime.scrape import read_buckets
from services.platform.settings import Settings


def simulate(config: Settings, request: TrafficRequest, bar: ProgressBar) -> dict[str, Any]:
    """Play live transactions and return the run's figures; Ctrl-C ends it, with those so far.

    Raises:
        OSError: an engine does not answer.
        ValueError: no such drift.
    """
    drift = Drift.parse(request.drift) if request.drift else None
    report = TrafficReport()
    with bar(f"live traffic, {request.rate:.0f}/s") as step, suppress(KeyboardInterrupt):
        uvloop.run(
            simulate_live(config, report, request.seed, request.rate, request.seconds, step, drift)
        )
    return traffic_figures(report, asyncio.run(present_costs(config)))


def demo(
    config: Settings, request: DemoRequest, bar: ProgressBar, features_url: str, reasons_url: str
) -> dict[str, Any]:
    """Play live transactions, wait for the workers, and audit every logged vector.

    Args:
        features_url: URL of the feature worker's metrics.
        reasons_url: URL of the metrics of the worker that writes reasons.

    Raises:
        OSError: an engine does not answer.
    """
    before = _delays(features_url, reasons_url)
    report = TrafficReport()
    with bar(f"live traffic, {request.rate:.0f}/s") as step:
        uvloop.run(simulate_live(config, report, request.seed, request.rate, request.seconds, step))
    with bar("auditing every vector"):
        settled = asyncio.run(wait_until_processed(config))
        after = _delays(features_url, reasons_url)
        figures, checked = run_report(config, report, before, after)
    examples = [
        f"{one.transaction_id}: {one.reason} {list(one.features)}" for one in checked.examples[:3]
    ]
    return {**figures, "settled": settled, **({"examples": examples} if examples else {})}


def _delays(features_url: str, reasons_url: str) -> Delays:
    return Delays(
        read_buckets(features_url, "freshness_seconds"),
        read_buckets(reasons_url, "reasons_delay_seconds"),
    )


def demo_failures(figures: Figures) -> list[str]:
    """What missed its target, a clause each; empty if nothing did."""
    wrong = []
    if not figures["p95_ms"] < LATENCY_BUDGET_MS:
        wrong.append(
            f"p95 is {figures['p95_ms']:.1f} ms, the budget {LATENCY_BUDGET_MS:.0f} ms: if this "
            "machine is slow or busy, try a lower --rate"
        )
    for name in ("mismatches", "lost", "failures"):
        if figures[name]:
            wrong.append(f"{figures[name]} {name}")
    if not figures["settled"]:
        wrong.append("features or lake did not catch up within a minute: `whiteboard status`")
    return wrong


def _reasons(p95_ms: float) -> str:
    return "no payment was stopped" if isnan(p95_ms) else f"p95 {p95_ms:.0f} ms"


def demo_table(f: Figures) -> Table:
    """The demo's figures for people."""
    saved = 1 - f["cost"] / f["cost_approve_all"] if f["cost_approve_all"] else 0.0
    rows = (
        ("POST /score at client",
         f"p50 {f['p50_ms']:.1f}  p95 {f['p95_ms']:.1f}  p99 {f['p99_ms']:.1f} ms",
         mark(f["p95_ms"] < LATENCY_BUDGET_MS)),
        ("decisions", f"{f['requests']:,} at {f['rate']:.0f}/s by {f['model']}", ""),
        ("failed, lost, degraded", f"{f['failures']}, {f['lost']}, {f['degraded']}",
         mark(not f["failures"] and not f["lost"])),
        ("approve, review, decline",
         f"{f['approved']:,}, {f['reviewed']:,}, {f['declined']:,}",
         f"[dim]wait {f['review_wait_p95_s']:.1f} s p95[/]"),
        ("precision, recall", f"{f['precision']:.2f}, {f['recall']:.2f} of {f['frauds']} frauds",
         "[dim]by simulation[/]"),
        ("cost", f"{f['cost'] / 100:,.0f} EUR", f"[green]{saved:.0%} saved[/]"),
        ("cost by one threshold", f"{f['cost_one_threshold'] / 100:,.0f} EUR", ""),
        ("cost of approving all", f"{f['cost_approve_all'] / 100:,.0f} EUR", ""),
        ("features readable after",
         f"p50 {f['freshness_p50_ms']:.0f}  p99 {f['freshness_p99_ms']:.0f} ms", ""),
        ("reasons written after", _reasons(f["reasons_p95_ms"]), ""),
        ("skew audit", f"{f['vectors']:,} vectors, {f['mismatches']} mismatches",
         mark(not f["mismatches"])),
    )  # fmt: skip
    return Table("Fraud detection, live", ("", "measured", ""), rows, f.get("examples", ()))
