"""`whiteboard scorecard`: how well the monitors detect drifts that are injected."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import FIRST, DesignArgument, JsonOption, errors_as_messages, hook
from services.cli.output import bar, out, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.hooks import DriftBenchmarkResult


def scorecard(
    design: DesignArgument = FIRST,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; minutes each.")] = 1,
    drift: Annotated[list[str] | None, typer.Option(help="This drift alone; repeatable.")] = None,
    strength: Annotated[
        list[float] | None, typer.Option(min=0.01, max=1, help="This strength alone; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Inject every drift that the simulator has, and none, and count each monitor's alarms.

    Needs no stack for fraud; for cv the champion is asked.

    Examples:
      whiteboard scorecard fraud --seeds 3
      whiteboard scorecard fraud --drift covariate --strength 0.5 --seeds 15
      whiteboard scorecard cv --json
    """
    benchmark = hook(design.benchmark_drifts, design, "scorecard")
    unknown = set(drift or ()) - set(design.drifts)
    if unknown:
        known = ", ".join(design.drifts)
        raise typer.BadParameter(f"no drift {unknown.pop()!r}: choose from {known}")
    from monitoring.drift_benchmark import STRENGTHS

    injected = [(d, s) for d in drift or design.drifts for s in strength or STRENGTHS]
    with errors_as_messages(), bar("injecting drifts") as step:
        found = benchmark(settings(), list(range(seeds)), injected, step)
    if as_json:
        show_json(found.as_json())
    else:
        _show(found)


def _show(found: "DriftBenchmarkResult") -> None:
    drifts = list(dict.fromkeys((r.drift, r.strength) for r in found.rows))
    detectors = list(dict.fromkeys(r.detector for r in found.rows))
    title = "Windows until a drift is detected (share missed; - for never)"
    # Spaces, for a terminal of eighty columns to break names at.
    board = table(title, "drift", "strength", *(d.replace("_", " ") for d in detectors))
    cells = {(r.detector, r.drift, r.strength): r for r in found.rows}
    for drift, strength in drifts:
        row = [cells[(d, drift, strength)] for d in detectors]
        board.add_row(drift, f"{strength:.2f}", *(_cell(r.delay_windows, r.miss_rate) for r in row))
    out.print(board)
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in found.false_alarms_per_1000.items())
    out.print(f"false alarms in 1,000 clean windows ({found.clean_windows:,} seen): {rates}")


def _cell(delay: float, missed: float) -> str:
    if missed == 1.0:
        return "[dim]-[/]"
    return f"{delay:.1f}" if missed == 0.0 else f"{delay:.1f} [yellow]({missed:.0%})[/]"
