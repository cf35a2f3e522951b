"""`whiteboard evaluate`: a published protocol on published data."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.designs import DesignArgument
from services.cli.output import JsonOption, bar, fail, out, show_json, table


class Protocol(StrEnum):
    """The protocols there are."""

    handbook = "handbook"


def evaluate(
    design: DesignArgument,
    file: Annotated[Path, typer.Option(help="The data set.", exists=True, dir_okay=False)],
    protocol: Annotated[Protocol, typer.Option(help="Which protocol.")] = Protocol.handbook,
    candidate: Annotated[str, typer.Option(help="Which candidate.")] = "xgboost",
    seed: Annotated[int, typer.Option(help="Seed of training.")] = 0,
    published_week_only: Annotated[
        bool, typer.Option(help="Train on the published week alone, not from mid-May.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train and test on a published data set by its published protocol. Needs no stack.

    Examples:
      whiteboard evaluate fraud --file transactions.parquet --protocol handbook
      whiteboard evaluate fraud --file transactions.parquet --published-week-only --json
    """
    from services.fraud import handbook

    start = handbook.TRAIN_WEEK[0] if published_week_only else handbook.TRAIN_FROM
    try:
        found = handbook.evaluate(file, candidate, seed, bar, start)
    except (ValueError, KeyError) as error:
        fail(str(error.args[0]))
    if as_json:
        show_json({"protocol": protocol.value, "candidate": candidate, **asdict(found)})
    else:
        _show(asdict(found), candidate, str(start), handbook.PUBLISHED)


def _show(found: dict[str, Any], candidate: str, start: str, published: dict[str, Any]) -> None:
    title = f"Handbook protocol (simulated data), {found['rows']:,} test transactions"
    board = table(title, "model", "AUC ROC", "average precision", "card precision@100")
    for name, figures in published.items():
        board.add_row(f"[dim]{name}, published[/]", *(f"[dim]{f:.3f}[/]" for f in figures))
    ours = (found["auc"], found["ap"], found["cp100"])
    board.add_row(f"{candidate} on accumulators, from {start}", *(f"{f:.3f}" for f in ours))
    out.print(board)
