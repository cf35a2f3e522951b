"""`whiteboard train`."""

from typing import Annotated

import typer

from services.cli.designs import DesignArgument
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.cli.up import SeedOption
from services.skeleton.settings import settings


def train(
    design: DesignArgument,
    candidate: Annotated[str, typer.Option(help="Which candidate.")] = "xgboost",
    seed: SeedOption = 7,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it champion at once, past the gate.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a candidate on the lake's history and register it in MLflow.

    It serves nobody before `whiteboard swap` lets it through the gate.

    Examples:
      whiteboard train fraud --candidate deepsets
      whiteboard train fraud --seed 1 --promote --json
    """
    from services.fraud import retraining, training

    try:
        made = training.train(settings(), candidate, seed, bar)
    except KeyError as error:
        fail(str(error.args[0]))
    except training.TooLittleHistory as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    if promote:
        retraining.promote_unjudged(settings(), made, "by order, past the gate")
    if as_json:
        show_json({**made.metrics, "version": made.card.version})
        return
    board = table(f"{candidate}:{made.card.version}, on the week held out", "", "measured")
    for name, value in made.metrics.items():
        board.add_row(name, f"{value:,.4f}")
    out.print(board)
    if not promote:
        say(f"registered; `whiteboard swap fraud {candidate}` enters it as challenger")
