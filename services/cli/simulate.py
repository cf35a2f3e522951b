"""`whiteboard simulate`: live traffic into the running stack."""

import asyncio
from typing import Annotated, Any

import typer

from services.cli.demo import RateOption
from services.cli.designs import DesignArgument, DesignName
from services.cli.output import JsonOption, bar, fail, out, show_json, table
from services.cli.up import SeedOption
from services.skeleton.settings import settings

DriftOption = Annotated[
    str,
    typer.Option(
        help="How the world is from now on: covariate, concept, holiday, null_device, each with a "
        "strength up to 1, e.g. covariate=0.5,concept=1; or none."
    ),
]


def simulate(
    design: DesignArgument = DesignName.fraud,
    rate: RateOption = 200,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    seed: SeedOption = 7,
    drift: DriftOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stream live transactions through the running stack, from where the last run stopped.

    Examples:
      whiteboard simulate fraud --rate 300 --seconds 30
      whiteboard simulate fraud --drift covariate=0.5,concept=1
    """
    from services.fraud import scoreboard
    from services.fraud.simulator.drift import Drift
    from services.fraud.simulator.run import play

    try:
        change = Drift.parse(drift) if drift else None
        with bar(f"live traffic, {rate:.0f}/s") as step:
            report = asyncio.run(play(settings(), seed, rate, seconds, step, change))
    except (ConnectionError, ValueError) as error:
        fail(str(error))
    figures = {
        **scoreboard.latency(report),
        **scoreboard.quality(report),
        "requests": report.requests,
        "failures": report.failures,
        "degraded": report.degraded,
        "errors": report.errors,
    }
    show(figures, as_json)


def show(figures: dict[str, Any], as_json: bool) -> None:
    """Print a run's figures; ends with 1 if a request failed."""
    if as_json:
        show_json(figures)
    else:
        board = table("Traffic", "", "measured")
        for name, value in figures.items():
            if name != "errors":
                board.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
        out.print(board)
    if figures["failures"]:
        worst = max(figures["errors"], key=figures["errors"].get)
        fail(f"{figures['failures']} requests failed, most of them: {worst}")
