"""`whiteboard train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.designs import DesignArgument, DesignName, module, wiring
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.cli.up import SeedOption
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.models.registry import Trained


def train(
    design: DesignArgument,
    candidate: Annotated[str, typer.Option(help="Which candidate; the design's first.")] = "",
    data: Annotated[
        Path | None,
        typer.Option(help="cv: a folder of classes with pictures.", exists=True, file_okay=False),
    ] = None,
    seed: SeedOption = 7,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it champion at once, past the gate.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a candidate on history, or on a folder of pictures, and register it in MLflow.

    It serves nobody before `whiteboard swap` lets it through the gate.
    It gives way to what answers requests.

    Examples:
      whiteboard train fraud --candidate deepsets
      whiteboard train fraud --seed 1 --promote --json
      whiteboard train cv --data pictures/ --promote
    """
    from services.platform.retraining.challenge import promote_unjudged
    from services.platform.runtime.worker import stand_aside

    if data is not None and design is not DesignName.cv:
        fail("--data is for `whiteboard train cv`: fraud trains on the lake's history")
    stand_aside(os.getpid())
    made = _train(design, candidate or wiring(design).first_candidate, data, seed)
    if promote:
        promote_unjudged(settings(), made, "by order, past the gate")
    if as_json:
        show_json({**made.metrics, "version": made.card.version})
        return
    _show(made)
    if not promote:
        name = made.card.candidate
        say(f"registered; `whiteboard swap {design.value} {name}` enters it as challenger")


def _train(design: DesignName, candidate: str, data: Path | None, seed: int) -> "Trained":
    """Train and register; end the command where that can't be done."""
    try:
        training = module(design, "retraining.training")
        more = {} if data is None else {"folder": data}
        made: Trained = training.train(settings(), candidate, seed, bar, **more)
        return made
    except KeyError as error:
        fail(str(error.args[0]))
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")


def _show(made: "Trained") -> None:
    named = f"{made.card.candidate}:{made.card.version}"
    board = table(f"{named}, on what was held out", "", "measured")
    for name, value in made.metrics.items():
        board.add_row(name.replace("_", " "), _shown(name, value))
    out.print(board)


def _shown(name: str, value: float) -> str:
    if name.startswith("cost"):
        return f"{value / 100:,.0f} EUR"
    return f"{value:.0f} s" if name.endswith("_s") else f"{value:.4f}"
