"""`whiteboard demo`: everything once, and a scoreboard."""

import asyncio
import json
import time
from typing import Annotated, Any

import typer
from rich.panel import Panel

from infra.local.supervisor import Supervisor
from services.cli.output import JsonOption, bar, err, fail, out, say, show_json, table
from services.cli.up import DaysOption, SeedOption, bring_up
from services.fraud.problem import LATENCY_BUDGET_MS
from services.skeleton.settings import Settings, settings

RateOption = Annotated[float, typer.Option(min=1, help="Transactions a second, open loop.")]


def demo(
    rate: RateOption = 200,
    seconds: Annotated[float, typer.Option(min=5, help="How long traffic is live.")] = 60,
    seed: SeedOption = 7,
    days: DaysOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Start the stack, stream live transactions through it, and print a scoreboard.

    Exits with 1 when p95 reaches 50 ms, a feature vector differs from its audit, or a decision
    is lost. The stack keeps running.

    Examples:
      whiteboard demo
      whiteboard demo --rate 400 --seconds 30 --json
    """
    begin = time.monotonic()
    config = settings()
    supervisor = bring_up(config, seed, days)
    figures = _live(config, supervisor, rate, seconds, seed)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    _keep(config, figures)
    if as_json:
        show_json(figures)
    else:
        _scoreboard(config, figures)
    wrong = verdict(figures)
    if wrong:
        fail("; ".join(wrong))


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong with a run, empty if nothing is."""
    wrong = []
    if not figures["p95_ms"] < LATENCY_BUDGET_MS:
        wrong.append(f"p95 is {figures['p95_ms']:.1f} ms, the budget {LATENCY_BUDGET_MS:.0f} ms")
    for name in ("mismatches", "lost", "failures"):
        if figures[name]:
            wrong.append(f"{figures[name]} {name}")
    if not figures["settled"]:
        wrong.append("features or lake did not catch up within a minute: `whiteboard status`")
    return wrong


def _live(
    config: Settings, supervisor: Supervisor, rate: float, seconds: float, seed: int
) -> dict[str, Any]:
    from services.fraud import scoreboard
    from services.fraud.simulator.run import play

    before = scoreboard.freshness_buckets(config)
    with bar(f"live traffic, {rate:.0f}/s") as step:
        report = asyncio.run(play(config, seed, rate, seconds, step))
    ram_mb = supervisor.resident_mb()
    with err.status("waiting for the workers, auditing every vector"):
        settled = asyncio.run(scoreboard.settled(config))
        after = scoreboard.freshness_buckets(config)
        figures, checked = scoreboard.figures(config, report, (before, after))
    for example in checked.examples[:3]:
        say(f"[red]mismatch[/] {example.transaction_id}: {example.reason} {example.features}")
    return {**figures, "model": _model(config), "settled": settled, "ram_mb": round(ram_mb)}


def _model(config: Settings) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{config.scorer}/readyz", timeout=5) as answer:
        return str(json.load(answer)["model"])


def _keep(config: Settings, figures: dict[str, Any]) -> None:
    (config.home / "demo.json").write_text(json.dumps(figures, indent=2))


def _scoreboard(config: Settings, f: dict[str, Any]) -> None:
    board = table("Fraud detection, live", "", "measured", "")
    good = {True: "[green]ok[/]", False: "[red]no[/]"}
    saved = 1 - f["cost"] / f["cost_approve_all"] if f["cost_approve_all"] else 0.0
    latency = f"p50 {f['p50_ms']:.1f}  p95 {f['p95_ms']:.1f}  p99 {f['p99_ms']:.1f} ms"
    rows = (
        ("POST /score at the client", latency, good[f["p95_ms"] < LATENCY_BUDGET_MS]),
        ("decisions", f"{f['requests']:,} at {f['rate']:.0f}/s by {f['model']}", ""),
        ("failed / lost / degraded", f"{f['failures']} / {f['lost']} / {f['degraded']}",
         good[not f["failures"] and not f["lost"]]),
        ("precision, recall", f"{f['precision']:.2f}, {f['recall']:.2f} of {f['frauds']} frauds",
         "[dim]simulator's truth[/]"),
        ("cost against approving all",
         f"{f['cost'] / 100:,.0f} against {f['cost_approve_all'] / 100:,.0f} EUR",
         f"[green]{saved:.0%} saved[/]"),
        ("features readable after",
         f"p50 {f['freshness_p50_ms']:.0f}  p99 {f['freshness_p99_ms']:.0f} ms", ""),
        ("skew audit", f"{f['vectors']:,} vectors, {f['mismatches']} mismatches",
         good[not f["mismatches"]]),
        ("memory of all processes", f"{f['ram_mb']:,} MB", ""),
        ("took", f"{f['seconds']:.0f} s", ""),
    )  # fmt: skip
    for row in rows:
        board.add_row(*row)
    out.print(board)
    out.print(
        Panel.fit(
            f"scorer, try it out   {config.scorer}/docs\n"
            f"its metrics          {config.scorer}/metrics\n"
            f"streams              http://{config.host}:{config.nats_http_port}/jsz?streams=1\n"
            f"all figures          {config.home / 'demo.json'}\n"
            "the design           whiteboard describe fraud\n"
            "stop it              whiteboard down   (.venv/bin/whiteboard after `make demo`)",
            title="still running",
        )
    )
