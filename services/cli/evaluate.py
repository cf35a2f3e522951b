"""`whiteboard evaluate`: a published protocol on published data."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import (
    DESIGNS,
    CandidateOption,
    DesignArgument,
    JsonOption,
    errors_as_messages,
    hook,
)
from services.cli.output import bar, fail, show_json, show_table
from services.platform.hooks import EvaluationRequest

_PROTOCOLS = tuple(design.protocol for design in DESIGNS.values() if design.protocol)


def _protocol(name: str) -> str:
    if name and name not in _PROTOCOLS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, _PROTOCOLS))}.")
    return name


def evaluate(
    design: DesignArgument,
    file: Annotated[Path, typer.Option(help="The data set, a file or a folder.", exists=True)],
    protocol: Annotated[
        str,
        typer.Option(
            callback=_protocol, metavar="|".join(_PROTOCOLS), help="Which; the design's own."
        ),
    ] = "",
    candidate: CandidateOption = "",
    seed: Annotated[int, typer.Option(help="Seed of training, or the first of several.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="cv: how many seeds.")] = 1,
    published_week_only: Annotated[
        bool, typer.Option(help="fraud: train on the published week alone, not from mid-May.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train and test on a published data set by its protocol. Needs no stack.

    Examples:
      whiteboard evaluate fraud --file transactions.parquet --protocol handbook
      whiteboard evaluate fraud --file transactions.parquet --published-week-only --json
      whiteboard evaluate cv --file magnetic_tile --protocol magnetic_tile --seeds 2
    """
    run = hook(design.evaluate, design, "evaluate")
    if protocol not in ("", design.protocol):
        fail(f"protocol {protocol} is not {design.name}'s: --protocol {design.protocol}")
    candidate = candidate or design.first_candidate
    with errors_as_messages():
        found = run(EvaluationRequest(file, candidate, seed, seeds, published_week_only), bar)
    if as_json:
        show_json({"protocol": design.protocol, "candidate": candidate, **found.figures})
    else:
        show_table(found.table)
