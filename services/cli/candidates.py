"""`whiteboard candidates`."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.designs import DesignArgument
from services.cli.output import JsonOption, bar, fail, out, show_json, table
from services.skeleton.settings import settings

if TYPE_CHECKING:
    from services.fraud.comparison import Compared


def candidates(
    design: DesignArgument,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train with.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Train every candidate on the same days, several times, and compare them. Minutes.

    Examples:
      whiteboard candidates fraud
      whiteboard candidates fraud --seeds 5 --json
    """
    from services.fraud import comparison

    try:
        found = comparison.compare(settings(), list(range(seeds)), bar)
    except (ValueError, OSError) as error:
        fail(f"{error}; is the stack up? `whiteboard up`")
    if as_json:
        show_json(comparison.figures(found))
        return
    _quality(found, comparison.DECLINED)
    _speed(found)


def _quality(found: "list[Compared]", declined: float) -> None:
    scenarios = list(found[0].recall)
    title = f"What they see; recall where {declined:.0%} of all transactions are declined"
    board = table(title, "", "AP", "cost a day", *(s.replace("_", " ") for s in scenarios), "cold")
    best = {s: max(one.recall[s] for one in found) for s in scenarios}
    for one in found:
        low, high = one.intervals["ap"]
        recalls = (
            f"[green]{one.recall[s]:.2f}[/]" if one.recall[s] == best[s] else f"{one.recall[s]:.2f}"
            for s in scenarios
        )
        board.add_row(
            one.name, f"{one.ap:.3f} [dim]±{(high - low) / 2:.3f}[/]", f"{one.cost / 100:,.0f}",
            *recalls, f"{one.cold_start_recall:.2f}",
        )  # fmt: skip
    out.print(board)


def _speed(found: "list[Compared]") -> None:
    board = table(
        "What they cost", "", "role", "ONNX p50, ms", "p99", "/score p95, ms", "MB", "train, s"
    )
    for one in found:
        board.add_row(
            one.name, one.role, f"{one.onnx_p50_ms:.3f}", f"{one.onnx_p99_ms:.3f}",
            f"{one.score_p95_ms:.1f}", f"{one.size_mb:.2f}", f"{one.train_s:.0f}",
        )  # fmt: skip
    out.print(board)
