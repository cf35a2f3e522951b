"""`whiteboard train`."""

from typing import Annotated

import typer

from services.cli.designs import DesignArgument
from services.cli.output import JsonOption, bar, fail, out, show_json, table
from services.cli.up import SeedOption
from services.skeleton.settings import settings


def train(
    design: DesignArgument,
    candidate: Annotated[str, typer.Option(help="Which candidate.")] = "xgboost",
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Train a candidate on the lake's history, register it in MLflow, and make it champion.

    Examples:
      whiteboard train fraud
      whiteboard train fraud --candidate xgboost --seed 1 --json
    """
    from services.fraud.training import TooLittleHistory
    from services.fraud.training import train as run

    try:
        _, figures = run(settings(), candidate, seed, bar)
    except KeyError as error:
        fail(str(error.args[0]))
    except TooLittleHistory as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    if as_json:
        show_json(figures)
        return
    board = table(f"{candidate}, on the week held out", "", "measured")
    for name, value in figures.items():
        board.add_row(name, f"{value:,.4f}")
    out.print(board)
