"""`whiteboard demo`: everything once, and a scoreboard."""

import asyncio
import json
import time
from typing import Annotated, Any

import typer
import uvloop
from rich.panel import Panel

from infra.local.supervisor import Supervisor
from services.cli.output import JsonOption, bar, err, fail, out, say, show_json, table
from services.cli.up import DaysOption, SeedOption, bring_up
from services.fraud.problem import LATENCY_BUDGET_MS
from services.platform.settings import Settings, settings

RateOption = Annotated[float, typer.Option(min=1, help="Transactions a second, open loop.")]
# Pictures a second: through the store, and posted.
PICTURES, POSTED = 4.0, 20.0


def demo(
    rate: RateOption = 100,
    seconds: Annotated[float, typer.Option(min=5, help="How long transactions are live.")] = 60,
    pictures_seconds: Annotated[float, typer.Option(min=5, help="How long pictures are.")] = 20,
    seed: SeedOption = 7,
    days: DaysOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Start the stack, stream transactions and pictures through it, and print two scoreboards.

    Exits with 1 when a p95 reaches 50 ms, a feature vector differs from its audit, or a decision
    or a picture is lost. The stack keeps running.

    Examples:
      whiteboard demo
      whiteboard demo --rate 400 --seconds 30 --json
    """
    begin = time.monotonic()
    config = settings()
    supervisor = bring_up(config, seed, days)
    figures = _live(config, supervisor, rate, seconds, seed)
    figures["cv"] = _pictures(config, pictures_seconds, seed)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    _keep(config, figures)
    if as_json:
        show_json(figures)
    else:
        _scoreboard(figures)
        _pictures_scoreboard(figures["cv"])
        _where(config, figures)
    wrong = [*verdict(figures), *pictures_verdict(figures["cv"])]
    if wrong:
        fail("; ".join(wrong))


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong with a run, empty if nothing is."""
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


def pictures_verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong with a run of the stations, empty if nothing is."""
    wrong = []
    if not figures["p95_ms"] < LATENCY_BUDGET_MS:
        wrong.append(f"p95 of /inspect is {figures['p95_ms']:.1f} ms, not under the budget")
    for name in ("lost", "duplicates", "failures"):
        if figures[name]:
            wrong.append(f"pictures: {figures[name]} {name}")
    return wrong


def _live(
    config: Settings, supervisor: Supervisor, rate: float, seconds: float, seed: int
) -> dict[str, Any]:
    from services.fraud.evaluation import run_report as scoreboard
    from services.fraud.simulator.run import play

    before = scoreboard.freshness_buckets(config)
    with bar(f"live traffic, {rate:.0f}/s") as step:
        report = uvloop.run(play(config, seed, rate, seconds, step))
    ram_mb = supervisor.resident_mb()
    with err.status("waiting for the workers, auditing every vector"):
        settled = asyncio.run(scoreboard.settled(config))
        after = scoreboard.freshness_buckets(config)
        figures, checked = scoreboard.figures(config, report, (before, after))
    for example in checked.examples[:3]:
        say(f"[red]mismatch[/] {example.transaction_id}: {example.reason} {example.features}")
    model = _model(config.scorer)
    return {**figures, "model": model, "settled": settled, "ram_mb": round(ram_mb)}


def _pictures(config: Settings, seconds: float, seed: int) -> dict[str, Any]:
    from services.cv_inspection.evaluation import run_report as scoreboard
    from services.cv_inspection.simulator.station import play

    with bar(f"live pictures, {PICTURES + POSTED:.0f}/s") as step:
        report = uvloop.run(play(config, seed, PICTURES, POSTED, seconds, step))
    sheet = config.home / "contact-sheet.png"
    with err.status("drawing a contact sheet"):
        scoreboard.contact_sheet(config, list(report.told), sheet)
    figures = scoreboard.figures(report, POSTED)
    return {**figures, "model": _model(config.inspector), "contact_sheet": str(sheet)}


def _model(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
        return str(json.load(answer)["model"])


def _keep(config: Settings, figures: dict[str, Any]) -> None:
    (config.home / "demo.json").write_text(json.dumps(figures, indent=2))


_GOOD = {True: "[green]ok[/]", False: "[red]no[/]"}


def _scoreboard(f: dict[str, Any]) -> None:
    board = table("Fraud detection, live", "", "measured", "")
    saved = 1 - f["cost"] / f["cost_approve_all"] if f["cost_approve_all"] else 0.0
    rows = (
        ("POST /score at the client", _latency(f), _GOOD[f["p95_ms"] < LATENCY_BUDGET_MS]),
        ("decisions", f"{f['requests']:,} at {f['rate']:.0f}/s by {f['model']}", ""),
        ("failed / lost / degraded", f"{f['failures']} / {f['lost']} / {f['degraded']}",
         _GOOD[not f["failures"] and not f["lost"]]),
        ("precision, recall", f"{f['precision']:.2f}, {f['recall']:.2f} of {f['frauds']} frauds",
         "[dim]simulator's truth[/]"),
        ("cost against approving all",
         f"{f['cost'] / 100:,.0f} against {f['cost_approve_all'] / 100:,.0f} EUR",
         f"[green]{saved:.0%} saved[/]"),
        ("features readable after",
         f"p50 {f['freshness_p50_ms']:.0f}  p99 {f['freshness_p99_ms']:.0f} ms", ""),
        ("skew audit", f"{f['vectors']:,} vectors, {f['mismatches']} mismatches",
         _GOOD[not f["mismatches"]]),
    )  # fmt: skip
    for row in rows:
        board.add_row(*row)
    out.print(board)


def _pictures_scoreboard(f: dict[str, Any]) -> None:
    board = table("Quality inspection, live", "", "measured", "")
    saved = 1 - f["cost"] / f["cost_pass_all"] if f["cost_pass_all"] else 0.0
    rows = (
        ("POST /inspect at the client", _latency(f), _GOOD[f["p95_ms"] < LATENCY_BUDGET_MS]),
        ("pictures posted", f"{f['posted']:,} at {f['post_rate']:.0f}/s to {f['model']}",
         _GOOD[not f["failures"]]),
        ("pictures through the store", f"{f['landed']:,}, {f['lost']} lost, "
         f"{f['duplicates']} told twice", _GOOD[not f["lost"] and not f["duplicates"]]),
        ("from landing to verdict",
         f"p50 {f['delay_p50_ms']:.0f}  p95 {f['delay_p95_ms']:.0f} ms", ""),
        ("defects escaped", f"{f['escapes']} of {f['defects']}; {f['false_alarms']} good parts "
         f"stopped", "[dim]simulator's truth[/]"),
        ("cost against passing all",
         f"{f['cost'] / 100:,.0f} against {f['cost_pass_all'] / 100:,.0f} EUR",
         f"[green]{saved:.0%} saved[/]"),
    )  # fmt: skip
    for row in rows:
        board.add_row(*row)
    out.print(board)


def _latency(f: dict[str, Any]) -> str:
    return f"p50 {f['p50_ms']:.1f}  p95 {f['p95_ms']:.1f}  p99 {f['p99_ms']:.1f} ms"


def _where(config: Settings, f: dict[str, Any]) -> None:
    out.print(
        Panel.fit(
            f"took {f['seconds']:.0f} s; all processes use {f['ram_mb']:,} MB\n"
            f"scorer, try it out   {config.scorer}/docs\n"
            f"inspector            {config.inspector}/docs\n"
            f"pictures, with masks {f['cv']['contact_sheet']}\n"
            f"streams              http://{config.host}:{config.nats_http_port}/jsz?streams=1\n"
            f"all figures          {config.home / 'demo.json'}\n"
            "the designs          whiteboard describe fraud|cv\n"
            "stop it              whiteboard down   (.venv/bin/whiteboard after `make demo`)",
            title="still running",
        )
    )
