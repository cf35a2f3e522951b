"""`whiteboard simulate`: live traffic into the running stack."""

import math
from typing import Annotated, Any

import typer

from services.cli.options import (
    DESIGNS,
    FIRST,
    DesignArgument,
    JsonOption,
    SeedOption,
    errors_as_messages,
)
from services.cli.output import bar, fail, out, show_json, table
from services.platform.hooks import Figures, TrafficRequest
from services.platform.settings import settings

_RATES = " or ".join(f"{design.traffic_rate:g}" for design in DESIGNS.values())
_DRIFTS = "; ".join(f"{design.name}: {', '.join(design.drifts)}" for design in DESIGNS.values())
DriftOption = Annotated[
    str,
    typer.Option(
        help=f"Changes from now on, each with a strength up to 1, or none. {_DRIFTS}; for one "
        "station with @line/station."
    ),
]


def simulate(
    design: DesignArgument = FIRST,
    rate: Annotated[
        float, typer.Option(min=0, help=f"Transactions or images a second; 0: {_RATES}.")
    ] = 0,
    post_rate: Annotated[
        float, typer.Option(min=0, help="cv: images a second that are posted besides.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    seed: SeedOption = 7,
    drift: DriftOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stream live transactions or images through the stack, from where the last run stopped.

    Ctrl-C ends it earlier, with the figures so far.

    Examples:
      whiteboard simulate fraud --rate 300 --seconds 30
      whiteboard simulate fraud --drift covariate=0.5,concept=1
      whiteboard simulate cv --rate 5 --post-rate 20 --drift blur=1
      whiteboard simulate cv --rate 20 --drift blur=1@line-b/station-2
    """
    request = TrafficRequest(rate or design.traffic_rate, post_rate, seconds, seed, drift)
    with errors_as_messages():
        figures = design.simulate(settings(), request, bar)
    show(figures, as_json)


def show(figures: Figures, as_json: bool) -> None:
    """Print a run's figures; ends with 1 if a request failed."""
    if as_json:
        show_json(figures)
    else:
        board = table("Traffic", "", "measured")
        for name, value in figures.items():
            if not isinstance(value, dict | list):
                board.add_row(name, _figure(value))
        out.print(board)
    if figures["failures"]:
        worst = max(figures["errors"], key=figures["errors"].get)
        fail(f"{figures['failures']} requests failed, most of them: {worst}")


def _figure(value: Any) -> str:
    """A figure with two decimals; NaN, for which there was nothing to measure, is a dash."""
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:,.2f}"
