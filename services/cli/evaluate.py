"""`whiteboard evaluate`: a published protocol on published data."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.designs import DesignArgument, DesignName, wiring
from services.cli.output import JsonOption, bar, fail, out, show_json, table


class Protocol(StrEnum):
    """The protocols there are."""

    handbook = "handbook"
    magnetic_tile = "magnetic_tile"


_OF = {DesignName.fraud: Protocol.handbook, DesignName.cv: Protocol.magnetic_tile}


def evaluate(
    design: DesignArgument,
    file: Annotated[Path, typer.Option(help="The data set, a file or a folder.", exists=True)],
    protocol: Annotated[Protocol | None, typer.Option(help="Which; the design's own.")] = None,
    candidate: Annotated[str, typer.Option(help="Which candidate; the design's first.")] = "",
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
    if protocol not in (None, _OF[design]):
        fail(f"protocol {protocol} is not {design.value}'s: --protocol {_OF[design]}")
    candidate = candidate or wiring(design).first_candidate
    try:
        if design is DesignName.fraud:
            _handbook(file, candidate, seed, published_week_only, as_json)
        else:
            _magnetic_tile(file, candidate, list(range(seed, seed + seeds)), as_json)
    except (ValueError, KeyError) as error:
        fail(str(error.args[0]))


def _handbook(file: Path, candidate: str, seed: int, week_only: bool, as_json: bool) -> None:
    from services.fraud.evaluation import handbook

    start = handbook.TRAIN_WEEK[0] if week_only else handbook.TRAIN_FROM
    found = asdict(handbook.evaluate(file, candidate, seed, bar, start))
    if as_json:
        show_json({"protocol": Protocol.handbook.value, "candidate": candidate, **found})
        return
    title = f"Handbook protocol (simulated data), {found['rows']:,} test transactions"
    board = table(title, "model", "AUC ROC", "average precision", "card precision@100")
    for name, figures in handbook.PUBLISHED.items():
        board.add_row(f"[dim]{name}, published[/]", *(f"[dim]{f:.3f}[/]" for f in figures))
    ours = (found["auc"], found["ap"], found["cp100"])
    board.add_row(f"{candidate} on accumulators, from {start}", *(f"{f:.3f}" for f in ours))
    out.print(board)


def _magnetic_tile(file: Path, candidate: str, seeds: list[int], as_json: bool) -> None:
    from services.cv_inspection.evaluation import magnetic_tile

    if not (file / "groups.csv").exists():
        fail(f"{file} has no groups.csv: without its groups a tile would be on both sides")
    found = magnetic_tile.evaluate(file, candidate, seeds, bar)
    if as_json:
        told = {name: asdict(interval) for name, interval in found.items()}
        shown = {"protocol": Protocol.magnetic_tile.value, "candidate": candidate}
        show_json({**shown, "seeds": len(seeds), **told})
        return
    board = table(f"Magnetic tile (real pictures), {candidate}", "", "mean", "95 % interval")
    for name, one in found.items():
        board.add_row(name, f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}")
    out.print(board)
