"""What `swap`, `retrain` and `night` share: shadow traffic, and the gate's decision shown."""

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from services.cli.options import errors_as_messages
from services.cli.output import EVENT_COLOURS, out, say, show_json, table
from services.cli.sigterm import cleanup_at_sigterm
from services.platform.design import Design

if TYPE_CHECKING:
    from services.platform.models.promotion_log import PromotionRecord
    from services.platform.retraining.spec import (
        ChallengeResult,
        RetrainingSpec,
        ShadowTraffic,
    )
    from services.platform.types import Floats

_MAX_TRAFFIC_S = 3_600


def challenge(
    design: Design, run: "Callable[[RetrainingSpec[Any, Any]], ChallengeResult]", as_json: bool
) -> None:
    """Run a challenge at the lowest CPU priority and show its result; exits with 2 if refused.

    One that is ended by SIGTERM ends its shadow mode first.
    """
    from services.platform.runtime.worker import lower_priority

    lower_priority(os.getpid())
    _ignore_sklearn_warnings()
    with errors_as_messages(), cleanup_at_sigterm():
        result = run(design.retraining_spec())
    _show(result, as_json)


def shadow_traffic(design: Design, patience: float, rate: float, seed: int) -> "ShadowTraffic":
    """Live decisions to shadow: those that come, and simulated ones at `rate` a second."""
    from services.platform.retraining.spec import ShadowTraffic

    if not rate:
        return ShadowTraffic(patience)
    return ShadowTraffic(patience, lambda: _simulate(design, rate, seed))


def timings_printer() -> "Callable[[Floats], None]":
    """Prints the call times measured in shadow mode, whenever there are more than before."""
    shown = 0

    def show(seconds: "Floats") -> None:
        """(K, 2) seconds of the challenger's and the champion's calls."""
        import numpy as np

        nonlocal shown
        if len(seconds) == shown:
            return
        shown = len(seconds)
        challenger, champion = (
            "p50 {:.2f}, p95 {:.2f} ms".format(*np.quantile(column, [0.5, 0.95]) * 1e3)
            for column in seconds.T
        )
        say(f"{shown:,} shadowed; call time: challenger {challenger}, champion {champion}")

    return show


def show_record_json(said: str, record: "PromotionRecord | None") -> None:
    """Print what was done about a model, and its row of the history, as JSON."""
    show_json({"said": said, "record": record.model_dump(mode="json") if record else None})


def _ignore_sklearn_warnings() -> None:
    """scikit-learn puts a filter that always warns first when it is imported: ours goes before."""
    import sklearn

    warnings.filterwarnings("ignore", module=rf"{sklearn.__name__}(\.|$)")


def _show(result: "ChallengeResult", as_json: bool) -> None:
    record = result.record
    if as_json:
        show_record_json(result.message, record)
    elif record is None:
        out.print(result.message, highlight=False)
    else:
        _show_decision(record)
    if record is not None and record.event == "refused":
        raise typer.Exit(2)


def _show_decision(record: "PromotionRecord") -> None:
    """The gate's figures, as a table."""
    f = record.figures
    colour = EVENT_COLOURS[record.event]
    title = f"{record.model} against version {record.before}: [{colour}]{record.event}[/]"
    if f:
        board = table(title, "", "champion", "challenger", "")
        board.add_row(
            f"cost of {f['decisions']:,.0f} labelled decisions, EUR",
            f"{f['cost_champion'] / 100:,.0f}", f"{f['cost_challenger'] / 100:,.0f}",
            f"difference {f['cost_difference'] / 100:+,.0f}, "
            f"at most {f['cost_difference_high'] / 100:+,.0f} (95 %)",
        )  # fmt: skip
        board.add_row(
            "p95 of a call, ms", f"{f['champion_p95_ms']:.3f}", f"{f['challenger_p95_ms']:.3f}",
            f"the service's would be {f['projected_p95_ms']:.1f} ms",
        )  # fmt: skip
        board.add_row(
            "calibration error", f"{f['ece_champion']:.4f}", f"{f['ece_challenger']:.4f}", ""
        )
        out.print(board)
    else:
        out.print(title)
    for reason in record.reasons:
        out.print(f"  {reason}", highlight=False)


@contextlib.contextmanager
def _simulate(design: Design, rate: float, seed: int) -> Iterator[None]:
    """Simulated traffic, played by a process of its own until the block ends."""
    from infra.local.engines import environment

    command = (
        sys.executable, "-m", "services.cli.main", "simulate", design.name,
        "--rate", str(rate), "--seconds", str(_MAX_TRAFFIC_S), "--seed", str(seed),
    )  # fmt: skip
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment())
    try:
        yield
    finally:
        # Simulators store their position ahead of what they send: ending them repeats nothing.
        process.terminate()
        process.wait(20)
