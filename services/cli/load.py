"""`whiteboard load` and `whiteboard bench`: how much it carries, and how far that is from best."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli.designs import DesignArgument, DesignName
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.skeleton.settings import settings

_BUDGET_MS = 50.0
_KNEE_SECONDS = 15


def load(
    design: DesignArgument = DesignName.fraud,
    rate: Annotated[int, typer.Option(min=0, help="Requests a second; 0: 500 or 20.")] = 0,
    duration: Annotated[int, typer.Option(min=5, help="Seconds, after 5 of warm-up.")] = 60,
    knee: Annotated[
        bool, typer.Option("--knee", help="Then raise the rate until p95 passes 50 ms.")
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
    from loadtest.run import run

    rate = rate or (500 if design is DesignName.fraud else 20)
    folder = settings().home / "load"
    try:
        with bar(f"{rate} requests/s") as step:
            found = run(design.value, rate, duration, folder, step)
        figures: dict[str, Any] = asdict(found)
        if knee:
            figures["knee"] = _knee(design.value, rate)
    except RuntimeError as error:
        fail(str(error))
    if as_json:
        show_json(figures)
    else:
        _show(design.value, figures)
    if found.failures or not found.p95_ms < _BUDGET_MS:
        fail(f"p95 {found.p95_ms:.0f} ms, {found.failures} failures: it does not hold")


def _knee(design: str, rate: int) -> list[dict[str, float]]:
    """Rates and their p95, up to the first that passes the budget."""
    from loadtest.run import run

    steps = []
    while True:
        with bar(f"{rate} requests/s") as step:
            found = run(design, rate, _KNEE_SECONDS, settings().home / "load", step)
        steps.append({"asked": rate, "rate": found.rate, "p95_ms": found.p95_ms})
        if found.p95_ms >= _BUDGET_MS or found.failures:
            return steps
        rate = round(rate * 1.25)


def _show(design: str, f: dict[str, Any]) -> None:
    board = table(f"Load on {design}", "", "measured")
    board.add_row("requests", f"{f['requests']:,} at {f['rate']:.0f}/s, {f['failures']} failed")
    board.add_row("p50, p95, p99", f"{f['p50_ms']:.0f}, {f['p95_ms']:.0f}, {f['p99_ms']:.0f} ms")
    for one in f.get("knee", []):
        board.add_row(f"{one['asked']}/s asked", f"{one['rate']:.0f}/s, p95 {one['p95_ms']:.0f} ms")
    out.print(board)
    say(f"report {f['html']}, plot {f['plot']}")


class What(StrEnum):
    """What can be put beside the floor."""

    score = "score"


def bench(
    what: Annotated[What, typer.Argument(help="score")] = What.score,
    seconds: Annotated[int, typer.Option(min=2, help="Seconds a round.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, all three in each.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Put /score beside a route that does nothing and beside the design by the book.

    Needs the running stack, and wrk.

    Examples:
      whiteboard bench score
      whiteboard bench score --seconds 20 --rounds 5 --json
    """
    from loadtest.bench import APPS
    from loadtest.bench import bench as run

    try:
        with bar("three servers in turn") as step:
            found = run(settings(), seconds, rounds, step)
    except (FileNotFoundError, RuntimeError) as error:
        fail(str(error))
    if as_json:
        show_json(found)
        return
    board = table("One process each, wrk", "", "requests/s", "p50, ms", "p95", "p99")
    for name in APPS:
        f = found[name]
        row = (f"{f['rps']:,.0f}", *(f"{f[f'p{q}_ms']:.2f}" for q in (50, 95, 99)))
        board.add_row(name.replace("_", " "), *row)
    out.print(board)
    out.print(
        f"/score is {found['score_over_noop']:.2f} of the floor and "
        f"{found['score_over_by_the_book']:.1f} times the book; "
        f"{found['degraded']} of its answers were degraded"
    )
