"""`whiteboard bench`: the hot paths beside the best that is possible."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.options import JsonOption
from services.cli.output import bar, fail, out, show_json, table
from services.platform.settings import settings


class Benchmark(StrEnum):
    """What can be measured."""

    score = "score"
    stream = "stream"
    waterfall = "waterfall"
    growth = "growth"
    swap = "swap"
    reasons = "reasons"


def bench(
    what: Annotated[Benchmark, typer.Argument(help="Which figures.")] = Benchmark.score,
    seconds: Annotated[int, typer.Option(min=2, help="Seconds a round.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of score and swap.")] = 3,
    feature_workers: Annotated[
        int, typer.Option(min=1, help="Feature workers of stream, sharing the rows.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure the hot paths.

      score: /score, a route that does nothing, and the reference implementation (needs wrk).
      stream: feature workers, events a second, and freshness at 1,000 a second.
      waterfall: where a request's time goes, candidate by candidate, with a plot.
      swap: shadow mode on and off in turn, and champions swapped, at 300 requests/s.
      reasons: /score and /score?reasons=true, the same requests in turn.
      growth: latency by feature views, customers and cart items; replicas' throughput (needs wrk).

    All but stream need the running stack.

    Examples:
      whiteboard bench score --seconds 20 --rounds 5 --json
      whiteboard bench stream
      whiteboard bench stream --feature-workers 4
      whiteboard bench waterfall --json
    """
    shown = {
        Benchmark.score: lambda: _score(seconds, rounds),
        Benchmark.stream: lambda: _stream(seconds, feature_workers),
        Benchmark.waterfall: lambda: _waterfall(seconds),
        Benchmark.growth: lambda: _growth(seconds),
        Benchmark.swap: lambda: _swap(seconds, rounds),
        Benchmark.reasons: lambda: _reasons(seconds),
    }
    try:
        if what in _NEED_WRK:
            _require_wrk()
        figures, board = shown[what]()
    except (OSError, RuntimeError, ValueError) as error:
        fail(str(error))
    if as_json:
        show_json(figures)
        return
    for part in board:
        out.print(part)


_NEED_WRK = (Benchmark.score, Benchmark.growth)
Shown = tuple[dict[str, Any], list[Table | str]]


def _require_wrk() -> None:
    """Look for wrk before any set-up. FileNotFoundError if it is not installed."""
    from loadtest.bench import wrk_program

    wrk_program()


def _score(seconds: int, rounds: int) -> Shown:
    from loadtest.bench import APPS
    from loadtest.bench import bench as run

    with bar("three servers in turn") as step:
        found = run(settings(), seconds, rounds, step)
    board = table("One process each, wrk", "", "requests/s", "p50, ms", "p95", "p99")
    for name in APPS:
        f = found[name]
        row = (f"{f['rps']:,.0f}", *(f"{f[f'p{q}_ms']:.2f}" for q in (50, 95, 99)))
        board.add_row(name.replace("_", " "), *row)
    summary = (
        f"/score is {found['score_over_noop']:.2f} of the floor and "
        f"{found['score_over_by_the_book']:.1f} times the reference implementation; "
        f"{found['degraded']} of its answers were degraded"
    )
    beside = table("Processor time beside the scorer, a decision", "", "us")
    for name, us in found["beside_us_a_decision"].items():
        if us >= 1:
            beside.add_row(name, f"{us:.0f}")
    return found, [board, summary, beside]


def _stream(seconds: int, workers: int) -> Shown:
    from loadtest.stream import bench as run

    found = run(60_000, 1_000, 2 * seconds, bar, workers)
    many = "one feature worker" if workers == 1 else f"{workers} feature workers"
    board = table(f"{many.capitalize()}, engines of its own", "", "measured")
    board.add_row(f"{found.events:,} events, drained", f"{found.events_per_s:,.0f}/s")
    board.add_row("processor time an event, all workers", f"{found.cpu_us:.0f} us")
    board.add_row("of NATS and Redis", f"{found.engines_cpu_us:.0f} us")
    fresh = f"p50 {found.freshness_p50_ms:.0f}, p99 {found.freshness_p99_ms:.0f} ms"
    board.add_row(f"readable after, at {found.rate:,.0f}/s", fresh)
    return found.as_json(), [board]


def _waterfall(seconds: int) -> Shown:
    from loadtest.waterfall import RATE, STAGES, plot
    from loadtest.waterfall import bench as run

    with bar("asking each candidate in turn") as step:
        found = run(settings(), round(seconds * RATE), step)
    path = settings().home / "load" / "waterfall.png"
    plot(found, path)
    board = table("Stages, ms: p50 / p95", "", *(one.name for one in found))
    for stage in STAGES:
        board.add_row(stage, *(_pair(one.stages[stage]) for one in found))
    board.add_row("at the client", *(_pair(one.client) for one in found))
    board.add_row("publish, off the path", *(_pair(one.publish) for one in found))
    figures = {"candidates": [asdict(one) for one in found], "plot": str(path)}
    return figures, [board, f"plot {path}"]


def _pair(ms: tuple[float, float]) -> str:
    return f"{ms[0]:.2f} / {ms[1]:.2f}"


def _swap(seconds: int, rounds: int) -> Shown:
    from loadtest.swaps import bench as run

    with bar("shadow on and off, then swaps") as step:
        found = run(settings(), 300.0, float(seconds), rounds, step)
    board = table(f"{found.requests:,} requests at {found.rate:.0f}/s", "", "measured")
    board.add_row("failed", str(found.failures))
    on, off = found.shadow_on_p95_ms, found.shadow_off_p95_ms
    ratio = f"{on:.1f} and {off:.1f} ms; a round's ratio {found.shadow_ratio:.2f}"
    board.add_row("p95 with shadow mode on and off", ratio)
    during = f"{found.changing_p95_ms:.1f} ms; worst second {found.worst_second_p95_ms:.1f} ms"
    board.add_row(f"p95 over {found.changes} changes of champion", during)
    return asdict(found), [board]


def _reasons(seconds: int) -> Shown:
    from loadtest.reasons import RATE
    from loadtest.reasons import bench as run

    with bar("without and with reasons, in turn") as step:
        found = run(settings(), round(seconds * RATE), step)
    board = table(f"{found.requests:,} requests of each", "", "p50, ms", "p95", "p99")
    for name, one in (("/score", found.without), ("/score?reasons=true", found.with_reasons)):
        board.add_row(name, f"{one.p50_ms:.2f}", f"{one.p95_ms:.2f}", f"{one.p99_ms:.2f}")
    return found.as_json(), [board]


def _growth(seconds: int) -> Shown:
    from loadtest.growth import bench as run

    found = run(settings(), seconds, bar)
    titles = {
        "views": "Feature views a request reads",
        "customers": "Customers in the store",
        "items": "Items in the cart",
        "replicas": "Scorer processes",
    }
    boards: list[Table | str] = []
    for name, points in found.items():
        second = "worst p99, ms" if name == "replicas" else "p99"
        board = table(titles[name], "", points[0].unit.partition(";")[0], second, "")
        for p in points:
            board.add_row(f"{p.size:,}", f"{p.p50:,.2f}", f"{p.p99:.2f}", p.note)
        boards.append(board)
    return {name: [asdict(p) for p in points] for name, points in found.items()}, boards
