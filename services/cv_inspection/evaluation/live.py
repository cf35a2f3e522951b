"""Live images: what `simulate` and `demo` play into the running stack, and how it is shown."""

from contextlib import suppress
from typing import Any

import uvloop

from services.cv_inspection.evaluation.run_report import contact_sheet, run_report
from services.cv_inspection.problem import LATENCY_BUDGET_MS
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.station import StationReport, run_stations
from services.platform.hooks import DemoRequest, Figures, Table, TrafficRequest, mark
from services.platform.progress import ProgressBar
from services.platform.settings import Settings

# Images a second in the demo: through the store, and posted.
RATE, POST_RATE = 4.0, 20.0


def simulate(config: Settings, request: TrafficRequest, bar: ProgressBar) -> dict[str, Any]:
    """Put and post images and return the run's figures; Ctrl-C ends it, with those so far.

    Raises:
        OSError: an engine does not answer.
        ValueError: no such drift.
    """
    drift = CameraDrift.parse(request.drift) if request.drift else None
    rate, post_rate = request.rate, request.post_rate
    report = StationReport()
    with bar(f"live images, {rate + post_rate:.0f}/s") as step, suppress(KeyboardInterrupt):
        uvloop.run(
            run_stations(
                config, report, request.seed, rate, post_rate, request.seconds, step, drift
            )
        )
    return run_report(report, post_rate)


def demo(config: Settings, request: DemoRequest, bar: ProgressBar) -> dict[str, Any]:
    """Put and post images, and draw a contact sheet of the results.

    Raises:
        OSError: an engine does not answer.
    """
    report, seconds = StationReport(), request.images_seconds
    with bar(f"live images, {RATE + POST_RATE:.0f}/s") as step:
        uvloop.run(run_stations(config, report, request.seed, RATE, POST_RATE, seconds, step))
    sheet = config.home / "contact-sheet.png"
    with bar("drawing a contact sheet"):
        contact_sheet(config, list(report.published), sheet)
    return {**run_report(report, POST_RATE), "contact_sheet": str(sheet)}


def demo_failures(figures: Figures) -> list[str]:
    """What missed its target, a clause each; empty if nothing did."""
    wrong = []
    if not figures["p95_ms"] < LATENCY_BUDGET_MS:
        wrong.append(
            f"p95 of /inspect is {figures['p95_ms']:.1f} ms, the budget "
            f"{LATENCY_BUDGET_MS:.0f} ms: is this machine slow or busy? `whiteboard load cv` "
            "measures again"
        )
    for name in ("lost", "duplicates", "failures"):
        if figures[name]:
            wrong.append(f"images: {figures[name]} {name}")
    return wrong


def demo_table(f: Figures) -> Table:
    """The demo's figures for people."""
    saved = 1 - f["cost"] / f["cost_pass_all"] if f["cost_pass_all"] else 0.0
    rows = (
        ("POST /inspect at client",
         f"p50 {f['p50_ms']:.1f}  p95 {f['p95_ms']:.1f}  p99 {f['p99_ms']:.1f} ms",
         mark(f["p95_ms"] < LATENCY_BUDGET_MS)),
        ("images posted", f"{f['posted']:,} at {f['post_rate']:.0f}/s, {f['model']}",
         mark(not f["failures"])),
        ("images through the store", f"{f['landed']:,}, {f['lost']} lost, "
         f"{f['duplicates']} duplicates", mark(not f["lost"] and not f["duplicates"])),
        ("from landing to result",
         f"p50 {f['delay_p50_ms']:.0f}  p95 {f['delay_p95_ms']:.0f} ms", ""),
        ("defects escaped", f"{f['escapes']} of {f['defects']}", "[dim]by simulation[/]"),
        ("good parts stopped", f"{f['false_alarms']}", "[dim]by simulation[/]"),
        ("labels", f"{f['verdicts']}, {f['audits']} of them audits, {f['returned']} returns", ""),
        ("cost", f"{f['cost'] / 100:,.0f} EUR", f"[green]{saved:.0%} saved[/]"),
        ("cost of passing all", f"{f['cost_pass_all'] / 100:,.0f} EUR", ""),
    )  # fmt: skip
    footer = (f"images, with masks: {f['contact_sheet']}",)
    return Table("Quality inspection, live", ("", "measured", ""), rows, footer)
