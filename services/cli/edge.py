"""`whiteboard edge`: build a model for a device, run it there, forward what it inspected."""

import asyncio
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from services.cli.options import (
    DesignArgument,
    JsonOption,
    SeedOption,
    errors_as_messages,
    only_with,
    with_command,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.models.refused import ModelRefused
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.cv_inspection.evaluation.edge_build import BuildRequest

_DEFAULT = with_command("edge")


class EdgeVerb(StrEnum):
    """What can be done at the edge."""

    build = "build"
    run = "run"
    forward = "forward"


def edge(
    verb: Annotated[EdgeVerb, typer.Argument(help="build, run or forward.")],
    design: DesignArgument = _DEFAULT,
    images: Annotated[
        Path | None, typer.Option(help="run: a folder of images.", exists=True, file_okay=False)
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where an edge device keeps its own.")] = None,
    candidate: Annotated[
        str, typer.Option(help="build: of this candidate the newest version; the champion.")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help="build: of this model file.", exists=True, dir_okay=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="build: a folder of labelled images to calibrate and measure on; simulated ones.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="build: pattern on a path that gives its part, such as 'kos(\\d+)'.")
    ] = "",
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Build an INT8 model for a device, run it with no network, forward its inspections.

    A build whose cost on held-out images rises over its bound is refused with exit code 2. With
    --data, these are the groups that training with the same --seed held out.

    Examples:
      whiteboard edge build cv
      whiteboard edge build cv --candidate efficientnet_lite2 --data images/
      whiteboard edge run cv --images images/
      whiteboard edge forward cv
    """
    only_with(design, "edge")
    store = store or settings().home / "edge"
    if verb is EdgeVerb.build:
        from services.cv_inspection.evaluation.edge_build import BuildRequest

        _build(store, BuildRequest(candidate, model, data, group_by, seed), as_json)
    elif verb is EdgeVerb.run:
        _run(store, images, as_json)
    else:
        _forward(store, as_json)


def _build(store: Path, request: "BuildRequest", as_json: bool) -> None:
    from services.cv_inspection.edge.quantisation import save
    from services.cv_inspection.evaluation.edge_build import build

    with errors_as_messages():
        small, made = build(settings(), request, bar)
    if as_json:
        show_json(asdict(made))
    else:
        _show_build(asdict(made))
    if made.refused:
        say(f"[red]refused[/]: {made.refused}")
        raise typer.Exit(2)
    path = save(store, small, made)
    say(f"kept: {path}; `whiteboard edge run cv --images FOLDER` uses it")


def _show_build(made: dict[str, Any]) -> None:
    title = f"Edge build of {made['model']}, a call on one thread"
    board = table(title, f"on {made['images']:,} images", "FP32", "INT8")
    for shown, name, form, unit in (
        ("AUC", "auc", ".3f", 1), ("mIoU", "iou", ".3f", 1), ("recall", "recall", ".3f", 1),
        ("cost, EUR", "cost", ",.0f", 100), ("p50, ms", "p50_ms", ".2f", 1),
        ("p95, ms", "p95_ms", ".2f", 1), ("size, MB", "size_mb", ".1f", 1),
    ):  # fmt: skip
        board.add_row(shown, *(format(made[m][name] / unit, form) for m in ("fp32", "int8")))
    out.print(board)


def _run(store: Path, images: Path | None, as_json: bool) -> None:
    from services.cv_inspection.edge import device
    from services.cv_inspection.model import read_model

    if images is None:
        fail("which images? --images FOLDER")
    path = device.model_path(store)
    if not path.exists():
        fail(f"no model at {path}: `whiteboard edge build cv`")
    try:
        with bar("inspecting, no network") as step:
            model, share = read_model(path.read_bytes()), settings().audit_share
            done = device.run(model, images, store, step, share)
    except ModelRefused as error:
        fail(f"{path}: {error}; build it again: `whiteboard edge build cv`")
    except OSError as error:
        fail(str(error))
    if as_json:
        show_json(asdict(done))
        return
    say(
        f"{done.inspected} inspected, {done.stopped} stopped, {len(done.bad)} not images, "
        f"{done.known} inspected before"
    )
    for name, why in list(done.bad.items())[:5]:
        say(f"  [yellow]{escape(name)}[/]: {escape(why)}")
    say(f"{done.waiting} wait in {store}: `whiteboard edge forward cv` when the stack is back")


def _forward(store: Path, as_json: bool) -> None:
    from nats.errors import Error as NatsError

    from services.cv_inspection.edge import device

    try:
        with bar("forwarding") as step:
            count = asyncio.run(device.forward(settings(), store, step))
    except (OSError, NatsError) as error:
        fail(
            f"{str(error) or type(error).__name__}; nothing is lost: forward again when it is back"
        )
    if as_json:
        show_json({"forwarded": count})
    else:
        say(f"{count} inspections forwarded")
