"""`whiteboard swap`."""

from dataclasses import replace
from typing import Annotated

import typer

from services.cli.lifecycle import challenge, shadow_traffic, timings_printer
from services.cli.options import (
    PATIENCE_S,
    DesignArgument,
    JsonOption,
    PatienceOption,
    SeedOption,
    TrafficOption,
)
from services.cli.output import bar
from services.platform.settings import settings


def swap(
    design: DesignArgument,
    candidate: Annotated[str, typer.Argument(help="Which candidate.")],
    retrain: Annotated[bool, typer.Option(help="Train it even if it is registered.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print progress of shadow mode.")] = False,
    traffic: TrafficOption = 0,
    patience: PatienceOption = PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Enter a candidate as challenger: train it if need be, shadow it, let the gate decide.

    Exits with 0 when it is promoted, with 2 when it is refused.

    Examples:
      whiteboard swap fraud deepsets --traffic 200
      whiteboard swap fraud gnn_xgboost --retrain --watch
      whiteboard swap cv tiny_vit --traffic 10
    """
    from services.platform.retraining import challenge as retraining

    source = shadow_traffic(design, patience, traffic, seed)
    if watch:
        source = replace(source, on_timings=timings_printer())
    challenge(
        design,
        lambda spec: retraining.swap(spec, settings(), candidate, seed, bar, retrain, source),
        as_json,
    )
