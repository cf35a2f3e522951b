"""`whiteboard evaluate`: a published protocol on published data."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import (
    DESIGNS,
    CandidateOption,
    DesignArgument,
    EpochsOption,
    ImageSizeOption,
    JsonOption,
    errors_as_messages,
    hook,
)
from services.cli.output import bar, fail, show_json, show_table
from services.platform.hooks import EvaluationRequest

_PROTOCOLS = tuple(
    name
    for design in DESIGNS.values()
    if design.protocol
    for name in (design.protocol, *design.more_protocols)
)


def _protocol(name: str) -> str:
    if name and name not in _PROTOCOLS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, _PROTOCOLS))}.")
    return name


def evaluate(
    design: DesignArgument,
    file: Annotated[
        Path | None,
        typer.Option(
            help="The data set, a file or a folder; else the folder of the protocol's name here.",
            exists=True,
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            callback=_protocol,
            metavar="|".join(_PROTOCOLS),
            help="Which; else the design's own, or the one of the folder's layout.",
        ),
    ] = "",
    candidate: CandidateOption = "",
    seed: Annotated[int, typer.Option(help="Seed of training, or the first of several.")] = 0,
    seeds: Annotated[
        int,
        typer.Option("--seeds", "--split-seeds", min=1, help="cv: how many, of split and fit."),
    ] = 1,
    published_week_only: Annotated[
        bool, typer.Option(help="fraud: train on the published week alone, not from mid-May.")
    ] = False,
    group_by: Annotated[
        str, typer.Option(help="cv: pattern on a path that gives its part, such as 'kos(\\d+)'.")
    ] = "",
    unseen: Annotated[
        bool, typer.Option("--unseen", help="cv: leave each defect out of training in turn.")
    ] = False,
    epochs: EpochsOption = 0,
    image_size: ImageSizeOption = "",
    as_json: JsonOption = False,
) -> None:
    r"""Train and test on a published data set by its protocol, or on a folder. Needs no stack.

    cv goes on where a run was stopped, and trains on a GPU where there is one.

    Examples:
      whiteboard evaluate fraud --file transactions.parquet --protocol handbook
      whiteboard evaluate fraud --file transactions.parquet --published-week-only --json
      whiteboard evaluate cv --file magnetic_tile --epochs 60 --split-seeds 3
      whiteboard evaluate cv --file magnetic_tile --candidate efficientnet_lite2
      whiteboard evaluate cv --unseen
      whiteboard evaluate cv --file images/ --protocol grouped --group-by 'kos(\d+)'
    """
    run = hook(design.evaluate, design, "evaluate")
    protocols = (design.protocol, *design.more_protocols)
    if protocol not in ("", *protocols):
        fail(f"protocol {protocol} is not {design.name}'s: --protocol {'|'.join(protocols)}")
    candidate = candidate or design.first_candidate
    file = file or Path(protocol or design.protocol)
    if not file.exists():
        fail(f"no data set {file} in this folder: name the data with --file")
    with errors_as_messages():
        options = (published_week_only, protocol, group_by, unseen, epochs, image_size)
        found = run(EvaluationRequest(file, candidate, seed, seeds, *options), bar)
    if as_json:
        show_json(
            {"protocol": protocol or design.protocol, "candidate": candidate, **found.figures}
        )
    else:
        show_table(found.table)
