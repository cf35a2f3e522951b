"""`whiteboard suspects`: labels and outlines that a model contradicts."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from services.cli.options import (
    CandidateOption,
    DesignArgument,
    EpochsOption,
    ImageSizeOption,
    JsonOption,
    errors_as_messages,
    only_with,
)
from services.cli.output import bar, out, say, show_json, table

_SHOWN = 30


def suspects(
    design: DesignArgument,
    data: Annotated[Path, typer.Option(help="A folder of labelled images.", exists=True)],
    candidate: CandidateOption = "",
    group_by: Annotated[str, typer.Option(help="Pattern on a path that gives its part.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the split and of training.")] = 0,
    epochs: EpochsOption = 0,
    image_size: ImageSizeOption = "",
    as_json: JsonOption = False,
) -> None:
    r"""Find images that are likely mislabelled or badly outlined. Needs no stack.

    Each is predicted by a model that saw nothing of its part. A run that was stopped goes on.

    Examples:
      whiteboard suspects cv --data magnetic_tile
      whiteboard suspects cv --data images/ --group-by 'kos(\d+)' --json
    """
    only_with(design, "suspects")
    from services.cv_inspection.evaluation.cross_validation import suspects as search

    request = search.SuspectRequest(
        data, candidate or design.first_candidate, group_by, seed, epochs, image_size
    )
    with errors_as_messages():
        found, sheet = search.find_suspects(request, bar)
    if as_json:
        show_json(search.as_json(found, sheet))
        return
    board = table("Suspect labels, the likeliest first", "suspicion", "image", "label", "P", "why")
    for one in found[:_SHOWN]:
        texts = (one.path, one.label, f"{one.defect:.2f}", one.reason)
        board.add_row(f"{one.suspicion:.2f}", *map(escape, texts))
    out.print(board)
    say(f"the worst, with masks: {sheet}")
