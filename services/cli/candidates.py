"""`whiteboard candidates`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, hook
from services.cli.output import bar, fail, out, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.evaluation.comparison import CandidateResult, ComparisonLabels


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
    from services.platform.evaluation.comparison import comparison_json

    compare = hook(design.compare, design, "candidates")
    try:
        found, labels = compare(settings(), list(range(seeds)), bar, _serve)
    except (ValueError, OSError, RuntimeError) as error:
        fail(f"{error}; is the stack up? `whiteboard up`")
    if as_json:
        show_json(comparison_json(found, labels))
        return
    _quality(found, labels)
    _speed(found, labels)


def _serve(factory: str, files: Mapping[str, bytes]) -> AbstractContextManager[Mapping[str, str]]:
    """Serve each file beside this installation; decisions are not published."""
    from infra.local.apps import serving_files

    return serving_files(factory, settings(), files, heard=False)


def _quality(found: "Sequence[CandidateResult]", shown: "ComparisonLabels") -> None:
    extra, heading = shown.extra
    board = table(
        f"Quality; recall where {shown.stopped_share:.0%} of all {shown.subject} are stopped",
        "", *(one.name for one in found),
    )  # fmt: skip
    board.add_row("average precision", *(_with_interval(one) for one in found))
    board.add_row(f"{shown.cost}, EUR", *(f"{one.cost / 100:,.0f}" for one in found))
    for kind in found[0].recall:
        best = max(one.recall[kind] for one in found)
        recalls = (one.recall[kind] for one in found)
        cells = (f"[green]{r:.2f}[/]" if r == best else f"{r:.2f}" for r in recalls)
        board.add_row(kind.replace("_", " "), *cells)
    board.add_row(heading, *(f"{getattr(one, extra):.2f}" for one in found))
    out.print(board)


def _with_interval(one: "CandidateResult") -> str:
    low, high = one.intervals["ap"]
    return f"{one.ap:.3f} [dim]±{(high - low) / 2:.3f}[/]"


def _speed(found: "Sequence[CandidateResult]", shown: "ComparisonLabels") -> None:
    request, heading = shown.request
    board = table("Speed and size", "", *(one.name for one in found))
    board.add_row("role", *(one.role for one in found))
    calls = (f"{one.onnx_p50_ms:.3f}, {one.onnx_p99_ms:.3f}" for one in found)
    board.add_row("ONNX p50, p99, ms", *calls)
    board.add_row(heading, *(f"{getattr(one, request):.1f}" for one in found))
    board.add_row("file, MB", *(f"{one.size_mb:.2f}" for one in found))
    board.add_row("training, s", *(f"{one.train_s:.0f}" for one in found))
    out.print(board)
