"""`whiteboard candidates`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.designs import DesignArgument, module
from services.cli.output import JsonOption, bar, fail, out, show_json, table
from services.skeleton.settings import settings

if TYPE_CHECKING:
    from services.skeleton.comparison import Compared, Shown


def candidates(
    design: DesignArgument,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train with.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Train every candidate on the same data, several times, and compare them. Minutes a seed.

    Examples:
      whiteboard candidates fraud
      whiteboard candidates cv --seeds 1
      whiteboard candidates fraud --seeds 5 --json
    """
    from services.skeleton.comparison import figures

    comparison = module(design, "comparison")
    try:
        found = comparison.compare(settings(), list(range(seeds)), bar)
    except (ValueError, OSError, RuntimeError) as error:
        fail(f"{error}; is the stack up? `whiteboard up`")
    if as_json:
        show_json(figures(found, comparison.SHOWN))
        return
    _quality(found, comparison.SHOWN)
    _speed(found, comparison.SHOWN)


def _quality(found: "Sequence[Compared]", shown: "Shown") -> None:
    kinds = list(found[0].recall)
    title = f"What they see; recall where {shown.stopped:.0%} of all {shown.subject} are stopped"
    extra, heading = shown.extra
    board = table(title, "", "AP", shown.cost, *(k.replace("_", " ") for k in kinds), heading)
    best = {k: max(one.recall[k] for one in found) for k in kinds}
    for one in found:
        low, high = one.intervals["ap"]
        recalls = (
            f"[green]{one.recall[k]:.2f}[/]" if one.recall[k] == best[k] else f"{one.recall[k]:.2f}"
            for k in kinds
        )
        board.add_row(
            one.name, f"{one.ap:.3f} [dim]±{(high - low) / 2:.3f}[/]", f"{one.cost / 100:,.0f}",
            *recalls, f"{getattr(one, extra):.2f}",
        )  # fmt: skip
    out.print(board)


def _speed(found: "Sequence[Compared]", shown: "Shown") -> None:
    request, heading = shown.request
    board = table("What they cost", "", "role", "ONNX p50, ms", "p99", heading, "MB", "train, s")
    for one in found:
        board.add_row(
            one.name, one.role, f"{one.onnx_p50_ms:.3f}", f"{one.onnx_p99_ms:.3f}",
            f"{getattr(one, request):.1f}", f"{one.size_mb:.2f}", f"{one.train_s:.0f}",
        )  # fmt: skip
    out.print(board)
