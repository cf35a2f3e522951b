"""`whiteboard swap`, `retrain`, `night`, `rollback` and `history`: who is champion, and why."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from infra.local.engines import environment
from services.cli.designs import DesignArgument, DesignName, module
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.cli.up import SeedOption
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.models.candidates import Floats
    from services.platform.models.promotion_log import Record
    from services.platform.retraining.challenge import Live, Outcome

PatienceOption = Annotated[
    float, typer.Option(min=1, help="Seconds to wait for live decisions to shadow.")
]
TrafficOption = Annotated[
    float,
    typer.Option(min=0, help="Play traffic while it is shadowed, so many a second."),
]
_PATIENCE_S = 60.0
_LONGEST_S = 3_600


def swap(
    design: DesignArgument,
    candidate: Annotated[str, typer.Argument(help="Which candidate.")],
    retrain: Annotated[bool, typer.Option(help="Train it even if it is registered.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Say how shadow mode is going.")] = False,
    traffic: TrafficOption = 0,
    patience: PatienceOption = _PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Enter a candidate as challenger: train it if need be, shadow it, let the gate decide.

    Exits with 0 when it is promoted, with 2 when it is refused.

    Examples:
      whiteboard swap fraud deepsets --traffic 200
      whiteboard swap fraud gnn_xgboost --retrain --watch
      whiteboard swap cv tiny_vit --traffic 10
    """
    from services.platform.retraining import challenge as retraining

    live = _live(design, patience, traffic, seed)
    if watch:
        live = replace(live, seen=_watcher())
    _decide(
        design,
        lambda plan: retraining.swap(plan, settings(), candidate, seed, bar, retrain, live),
        as_json,
    )


def retrain(
    design: DesignArgument,
    traffic: TrafficOption = 0,
    patience: PatienceOption = _PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Train the champion on with the labels that came since, and let the gate decide.

    Examples:
      whiteboard retrain fraud --traffic 200
    """
    from services.platform.retraining import challenge as retraining

    live = _live(design, patience, traffic, seed)
    _decide(design, lambda plan: retraining.retrain(plan, settings(), seed, bar, live), as_json)


def night(
    design: DesignArgument,
    traffic: TrafficOption = 0,
    patience: PatienceOption = _PATIENCE_S,
    seed: SeedOption = 7,
    as_json: JsonOption = False,
) -> None:
    """Let a night pass, as the scheduler does: retrain; fraud places everybody first.

    Examples:
      whiteboard night fraud --traffic 200
    """
    from services.platform.retraining import challenge as retraining

    live = _live(design, patience, traffic, seed)
    _decide(design, lambda plan: retraining.night(plan, settings(), seed, bar, live), as_json)


def rollback(
    design: DesignArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "by order",
    as_json: JsonOption = False,
) -> None:
    """Make the champion before this one champion again. Asked again, it goes one further back.

    Examples:
      whiteboard rollback fraud --reason "complaints from the call centre"
    """
    # Not through the design's training: going back must not wait for its libraries.
    from services.platform.models.promotion import NothingBefore, Succession

    try:
        record = asyncio.run(Succession(settings(), design.value).roll_back(reason))
    except (NothingBefore, ConnectionError) as error:
        fail(str(error))
    if as_json:
        show_json(record.model_dump(mode="json"))
    else:
        say(f"[green]{record.model} is champion again[/], in place of version {record.before}")


def history(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Show every promotion, refusal and rollback.

    Examples:
      whiteboard history fraud
    """
    from services.platform.models.promotion import Succession

    try:
        records = asyncio.run(Succession(settings(), design.value).history())
    except ConnectionError as error:
        fail(str(error))
    if as_json:
        show_json({"history": [r.model_dump(mode="json") for r in records]})
        return
    board = table("History", "at (UTC)", "model", "", "in place of", "why")
    for record in records:
        _row(board.add_row, record)
    out.print(board)


_COLOURS = {"promoted": "green", "refused": "red", "rolled_back": "yellow"}


def _row(add: Callable[..., None], record: "Record") -> None:
    colour = _COLOURS[record.event]
    before = "" if record.before is None else f"version {record.before}"
    when = f"{record.at:%Y-%m-%d %H:%M:%S}"
    event = record.event.replace("_", " ")
    add(when, record.model, f"[{colour}]{event}[/]", before, "; ".join(record.reasons))


def _decide(design: DesignName, run: "Callable[[Any], Outcome]", as_json: bool) -> None:
    """Run what takes a design's plan, giving way to what answers, and show what became of it."""
    from services.platform.runtime.worker import stand_aside

    stand_aside(os.getpid())
    try:
        outcome = run(module(design, "retraining.plan").PLAN)
    except KeyError as error:
        fail(str(error.args[0]))
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}: is the stack up? `whiteboard up`")
    _show(outcome, as_json)


def _show(outcome: "Outcome", as_json: bool) -> None:
    record = outcome.record
    if as_json:
        decided = record.model_dump(mode="json") if record else None
        show_json({"said": outcome.said, "record": decided})
    elif record is None:
        out.print(outcome.said, highlight=False)
    else:
        _gate(record)
    if record is not None and record.event == "refused":
        raise typer.Exit(2)


def _gate(record: "Record") -> None:
    """The gate's figures, as a table."""
    f = record.figures
    colour = _COLOURS[record.event]
    title = f"{record.model} against version {record.before}: [{colour}]{record.event}[/]"
    if f:
        board = table(title, "", "champion", "challenger", "")
        board.add_row(
            f"cost of {f['decisions']:,.0f} labelled decisions",
            f"{f['cost_champion'] / 100:,.0f}", f"{f['cost_challenger'] / 100:,.0f}",
            f"difference {f['cost_difference'] / 100:+,.0f}, "
            f"at most {f['cost_difference_high'] / 100:+,.0f} (95 %)",
        )  # fmt: skip
        board.add_row(
            "p95 of its call, ms", f"{f['champion_p95_ms']:.3f}", f"{f['challenger_p95_ms']:.3f}",
            f"the scorer's would be {f['projected_p95_ms']:.1f} ms",
        )  # fmt: skip
        board.add_row(
            "calibration error", f"{f['ece_champion']:.4f}", f"{f['ece_challenger']:.4f}", ""
        )
        out.print(board)
    else:
        out.print(title)
    for reason in record.reasons:
        out.print(f"  {reason}", highlight=False)


def _live(design: DesignName, patience: float, rate: float, seed: int) -> "Live":
    from services.platform.retraining.challenge import Live

    return Live(patience, lambda: _traffic(design, rate, seed)) if rate else Live(patience)


def _watcher() -> "Callable[[Floats], None]":
    """Says what shadow mode has measured, whenever it is more than before."""
    told = 0

    def seen(seconds: "Floats") -> None:
        nonlocal told
        if len(seconds) == told:
            return
        told = len(seconds)
        challenger, champion = (
            "p50 {:.2f}, p95 {:.2f} ms".format(*np.quantile(column, [0.5, 0.95]) * 1e3)
            for column in seconds.T
        )
        say(f"{told:,} shadowed; a call takes the challenger {challenger}, the champion {champion}")

    return seen


@contextlib.contextmanager
def _traffic(design: DesignName, rate: float, seed: int) -> Iterator[None]:
    """Play simulated traffic beside something, in a process of its own, until it is done."""
    command = (
        sys.executable, "-m", "services.cli.main", "simulate", design.value,
        "--rate", str(rate), "--seconds", str(_LONGEST_S), "--seed", str(seed),
    )  # fmt: skip
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment())
    try:
        yield
    finally:
        # The world's cursor is kept ahead of what is sent, so ending it anywhere repeats nothing.
        process.terminate()
        process.wait(20)
