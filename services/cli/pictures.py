"""`whiteboard batch`, `reconcile` and `edge`: the inspection design's own commands."""

import asyncio
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.designs import DesignArgument, DesignName
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.cli.up import SeedOption
from services.platform.settings import settings


def cv_alone(design: DesignName) -> None:
    """For a command that is about pictures. Ends the command if it is asked of fraud."""
    if design is not DesignName.cv:
        raise typer.BadParameter("this is for cv alone: it is about pictures")


def batch(
    design: DesignArgument,
    manifest: Annotated[str, typer.Option(help="CSV of Bucket,Key: a file or s3://bucket/key.")],
    report: Annotated[Path, typer.Option(help="Report CSV; what it lists is not done again.")] = (
        Path("report.csv")
    ),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Pictures at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Inspect every object of a manifest. Stopped in between, it goes on where it stopped.

    Exits with 2 if some objects failed; the report says which, and why.

    Examples:
      whiteboard batch cv --manifest lot-17.csv
      whiteboard batch cv --manifest s3://lake/manifests/lot-17.csv --report lot-17-report.csv
    """
    cv_alone(design)
    from services.cv_inspection.serving import batch as run

    try:
        items = run.read_manifest(settings(), manifest)
        with bar("inspecting") as step:
            done = run.run(settings(), items, report, workers, step)
    except FileNotFoundError as error:
        fail(f"not found: {error}")
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    if as_json:
        show_json(asdict(done))
    else:
        say(f"{done.succeeded} inspected, {done.failed} failed, {done.resumed} done before")
        say(f"report: {done.report}")
    if done.failed:
        raise typer.Exit(2)


def reconcile(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Find pictures in the store whose event never came, and have them inspected.

    The worker does this every minute by itself.

    Examples:
      whiteboard reconcile cv
    """
    cv_alone(design)
    from services.cv_inspection.ingestion.reconciliation import reconcile as run

    try:
        found = asyncio.run(run(settings()))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    if as_json:
        show_json({"told": found})
    else:
        say(f"{found} pictures had no result; they are on the stream now")


class EdgeVerb(StrEnum):
    """What can be done at the edge."""

    build = "build"
    run = "run"
    forward = "forward"


def edge(
    verb: Annotated[EdgeVerb, typer.Argument(help="build, run or forward.")],
    design: DesignArgument = DesignName.cv,
    images: Annotated[
        Path | None, typer.Option(help="run: a folder of pictures.", exists=True, file_okay=False)
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where an edge device keeps its own.")] = None,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Build an INT8 model for a device, run it with no network, forward what it saw.

    A build whose cost on held-out pictures rises over its bound is refused with exit code 2.

    Examples:
      whiteboard edge build cv
      whiteboard edge run cv --images pictures/
      whiteboard edge forward cv
    """
    cv_alone(design)
    store = store or settings().home / "edge"
    if verb is EdgeVerb.build:
        _build(store, seed, as_json)
    elif verb is EdgeVerb.run:
        _run(store, images, as_json)
    else:
        _forward(store, as_json)


def _build(store: Path, seed: int, as_json: bool) -> None:
    from services.cv_inspection.edge import quantisation
    from services.cv_inspection.retraining import training
    from services.cv_inspection.serving.model import DESIGN, read_model
    from services.platform.models.served_model import champion_path
    from services.platform.storage.lake import Lake

    try:
        data = Lake(settings()).get(champion_path(DESIGN))
    except OSError as error:
        fail(f"no champion to build from ({error}): `whiteboard up`")
    size = read_model(data).size
    split = training.simulated_split(seed, size, bar)
    with bar("taking pictures to judge by") as step:
        held_out = training.simulated_held_out(seed, size, step)
    with bar("quantising, judging, timing") as step:
        small, made = quantisation.build(data, split.train, split.validation, held_out, step)
    if not made.refused:
        path = quantisation.save(store, small, made)
    if as_json:
        show_json(asdict(made))
    else:
        _show_build(asdict(made))
    if made.refused:
        say(f"[red]refused[/]: {made.refused}")
        raise typer.Exit(2)
    say(f"kept: {path}; `whiteboard edge run cv --images FOLDER` uses it")


def _show_build(made: dict[str, Any]) -> None:
    board = table("Edge build, a call on one thread", "on 2,000 pictures", "FP32", "INT8")
    for shown, name, form, unit in (
        ("AUC", "auc", ".3f", 1), ("IoU", "iou", ".3f", 1), ("recall", "recall", ".3f", 1),
        ("cost, EUR", "cost", ",.0f", 100), ("p50, ms", "p50_ms", ".2f", 1),
        ("p95, ms", "p95_ms", ".2f", 1), ("size, MB", "size_mb", ".1f", 1),
    ):  # fmt: skip
        board.add_row(shown, *(format(made[m][name] / unit, form) for m in ("fp32", "int8")))
    out.print(board)


def _run(store: Path, images: Path | None, as_json: bool) -> None:
    from services.cv_inspection.edge import device as step8
    from services.cv_inspection.serving.model import read_model

    if images is None:
        fail("which pictures? --images FOLDER")
    path = step8.model_path(store)
    if not path.exists():
        fail(f"no model at {path}: `whiteboard edge build cv`")
    try:
        with bar("inspecting, no network") as step:
            done = step8.run(read_model(path.read_bytes()), images, store, step)
    except OSError as error:
        fail(str(error))
    if as_json:
        show_json(asdict(done))
        return
    say(
        f"{done.inspected} inspected, {done.stopped} stopped, {len(done.bad)} no pictures, "
        f"{done.known} seen before"
    )
    for name, why in list(done.bad.items())[:5]:
        say(f"  [yellow]{name}[/]: {why}")
    say(f"{done.waiting} wait in {store}: `whiteboard edge forward cv` when the stack is back")


def _forward(store: Path, as_json: bool) -> None:
    from nats.errors import Error as NatsError

    from services.cv_inspection.edge import device as step8

    try:
        with bar("forwarding") as step:
            count = asyncio.run(step8.forward(settings(), store, step))
    except (OSError, NatsError) as error:
        fail(f"{error or type(error).__name__}; nothing is lost: forward again when it is back")
    if as_json:
        show_json({"forwarded": count})
    else:
        say(f"{count} inspections forwarded")
