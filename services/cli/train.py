"""`whiteboard train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import (
    CandidateOption,
    DesignArgument,
    EpochsOption,
    ImageSizeOption,
    JsonOption,
    SeedOption,
    errors_as_messages,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.hooks import LabelledFolder
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.models.registry import RegisteredModel


def train(
    design: DesignArgument,
    candidate: CandidateOption = "",
    data: Annotated[
        Path | None,
        typer.Option(help="cv: a folder of classes with images.", exists=True, file_okay=False),
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="cv: pattern on a path that gives its part, such as 'kos(\\d+)'.")
    ] = "",
    epochs: EpochsOption = 0,
    image_size: ImageSizeOption = "",
    seed: SeedOption = 7,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it champion at once, without the gate.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a candidate on history, or on a folder of images, and register it in MLflow.

    It does not serve before `whiteboard swap` promotes it by the gate.
    A folder has classes with masks beside them or in masks/, or MVTec's layout. Groups are read
    from groups.csv (path,group) or --group-by, so that no part is in training and in test.
    A folder is trained on by the recipe that `evaluate cv` measures: docs/images.md.
    Training runs at the lowest CPU priority.

    Examples:
      whiteboard train fraud --candidate deepsets
      whiteboard train fraud --seed 1 --promote --json
      whiteboard train cv --data images/ --promote
      whiteboard train cv --data images/ --epochs 60 --image-size 192x480
    """
    from services.platform.runtime.worker import lower_priority

    if data is None and (epochs or image_size or group_by):
        fail("--epochs, --image-size and --group-by are for a folder of images: --data FOLDER")
    lower_priority(os.getpid())
    with errors_as_messages():
        folder = None if data is None else LabelledFolder(data, group_by, epochs, image_size)
        made = design.train(settings(), candidate or design.first_candidate, seed, bar, folder)
        if promote:
            from services.platform.retraining.challenge import promote_without_gate

            promote_without_gate(settings(), made, "by order, past the gate")
    if as_json:
        show_json({**made.metrics, "version": made.card.version})
        return
    _show(made)
    if not promote:
        name = made.card.candidate
        say(f"registered; `whiteboard swap {design.name} {name}` enters it as challenger")


def _show(made: "RegisteredModel") -> None:
    model = made.card.label
    board = table(f"{model}, on the validation set", "", "measured")
    for name, value in made.metrics.items():
        board.add_row(name.replace("_", " "), _text(name, value))
    out.print(board)


def _text(name: str, value: float) -> str:
    if name.startswith("cost"):
        return f"{value / 100:,.0f} EUR"
    return f"{value:.0f} s" if name.endswith("_s") else f"{value:.4f}"
