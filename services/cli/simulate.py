"""`whiteboard simulate`: live traffic, or live pictures, into the running stack."""

from typing import Annotated, Any

import typer
import uvloop

from services.cli.demo import PICTURES
from services.cli.designs import DesignArgument, DesignName
from services.cli.output import JsonOption, bar, fail, out, show_json, table
from services.cli.up import SeedOption
from services.platform.settings import settings

DriftOption = Annotated[
    str,
    typer.Option(
        help="How the world is from now on, each with a strength up to 1, or none. fraud: "
        "covariate, concept, holiday, null_device; cv: blur, exposure, new_defect, at one station "
        "with @line/station."
    ),
]


def simulate(
    design: DesignArgument = DesignName.fraud,
    rate: Annotated[
        float, typer.Option(min=0, help="Transactions or pictures a second; 0: 200 or 4.")
    ] = 0,
    post_rate: Annotated[
        float, typer.Option(min=0, help="cv: pictures a second that are posted besides.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    seed: SeedOption = 7,
    drift: DriftOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stream live transactions or pictures through the stack, from where the last run stopped.

    Examples:
      whiteboard simulate fraud --rate 300 --seconds 30
      whiteboard simulate fraud --drift covariate=0.5,concept=1
      whiteboard simulate cv --rate 5 --post-rate 20 --drift blur=1
      whiteboard simulate cv --rate 20 --drift blur=1@line-b/station-2
    """
    try:
        if design is DesignName.cv:
            show(_pictures(rate or PICTURES, post_rate, seconds, seed, drift), as_json)
        else:
            show(_transactions(rate or 200, seconds, seed, drift), as_json)
    except (OSError, ValueError) as error:
        fail(str(error))


def _transactions(rate: float, seconds: float, seed: int, drift: str) -> dict[str, Any]:
    from services.fraud.evaluation import run_report as scoreboard
    from services.fraud.simulator.drift import Drift
    from services.fraud.simulator.run import play

    change = Drift.parse(drift) if drift else None
    with bar(f"live traffic, {rate:.0f}/s") as step:
        report = uvloop.run(play(settings(), seed, rate, seconds, step, change))
    return {
        **scoreboard.latency(report),
        **scoreboard.quality(report),
        "requests": report.requests,
        "failures": report.failures,
        "degraded": report.degraded,
        "errors": report.errors,
    }


def _pictures(
    rate: float, post_rate: float, seconds: float, seed: int, drift: str
) -> dict[str, Any]:
    from services.cv_inspection.evaluation import run_report as scoreboard
    from services.cv_inspection.simulator.drift import Drift
    from services.cv_inspection.simulator.station import play

    change = Drift.parse(drift) if drift else None
    with bar(f"live pictures, {rate + post_rate:.0f}/s") as step:
        report = uvloop.run(play(settings(), seed, rate, post_rate, seconds, step, change))
    return scoreboard.figures(report, post_rate)


def show(figures: dict[str, Any], as_json: bool) -> None:
    """Print a run's figures; ends with 1 if a request failed."""
    if as_json:
        show_json(figures)
    else:
        board = table("Traffic", "", "measured")
        for name, value in figures.items():
            if not isinstance(value, dict):
                board.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
        out.print(board)
    if figures["failures"]:
        worst = max(figures["errors"], key=figures["errors"].get)
        fail(f"{figures['failures']} requests failed, most of them: {worst}")
