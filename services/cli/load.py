"""`whiteboard load`: how many requests a second a design carries."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from services.cli.options import DESIGNS, FIRST, DesignArgument, JsonOption
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

_RATES = " or ".join(f"{design.load_rate}" for design in DESIGNS.values())
# Smaller growth is an allocator's normal variation.
_GREW_MB = 20


def load(
    design: DesignArgument = FIRST,
    rate: Annotated[int, typer.Option(min=0, help=f"Requests a second; 0: {_RATES}.")] = 0,
    duration: Annotated[int, typer.Option(min=5, help="Seconds, after 5 of warm-up.")] = 60,
    knee: Annotated[
        bool, typer.Option("--knee", help="Then find the rate at which p95 passes 50 ms.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a design with Locust, open loop, and hold it to p95 < 50 ms and no failure.

    Exits with 1 when it does not hold. An HTML report and a plot are kept.

    Examples:
      whiteboard load fraud --rate 500 --duration 60
      whiteboard load fraud --knee --json
      whiteboard load cv --rate 20
    """
    from loadtest.run import measured_knee, resident_mb, run

    if not design.load_rate:
        fail(f"there is no loadtest/{design.name}.py: {design.name} has no load scenario")
    rate = rate or design.load_rate
    budget_ms = design.problem().latency_budget_ms
    folder = settings().home / "load"
    try:
        before = resident_mb(settings())
        with bar(f"{rate} requests/s") as step:
            found = run(design.name, rate, duration, folder, step)
        after = resident_mb(settings())
        figures: dict[str, Any] = asdict(found)
        figures["memory_mb"] = {name: [before.get(name), mb] for name, mb in after.items()}
        if knee:
            search = measured_knee(settings(), design, rate, budget_ms, bar)
            figures["measured_knee"] = search.rate
            figures["knee"] = [asdict(one) for one in search.steps]
    except RuntimeError as error:
        fail(str(error))
    if as_json:
        show_json(figures)
    else:
        _show(design.name, figures)
    if found.failures or not found.p95_ms < budget_ms:
        fail(f"p95 {found.p95_ms:.0f} ms, {found.failures} failures: it does not hold")


def _show(design: str, f: dict[str, Any]) -> None:
    board = table(f"Load on {design}", "", "measured")
    board.add_row("requests", f"{f['requests']:,} at {f['rate']:.0f}/s, {f['failures']} failed")
    for reason, count in f["errors"].items():
        board.add_row("failed", f"{count} times: {reason}")
    board.add_row("p50, p95, p99", f"{f['p50_ms']:.0f}, {f['p95_ms']:.0f}, {f['p99_ms']:.0f} ms")
    for one in f.get("knee", []):
        board.add_row(f"{one['asked']}/s asked", f"{one['rate']:.0f}/s, p95 {one['p95_ms']:.0f} ms")
    if "measured_knee" in f:
        board.add_row("knee", f"{f['measured_knee']:.0f}/s")
    for name, (before, after) in f["memory_mb"].items():
        if before and after > before + _GREW_MB:
            board.add_row(f"memory of {name}", f"{before:,.0f} to {after:,.0f} MB")
    out.print(board)
    say(f"report {f['html']}, plot {f['plot']}")
