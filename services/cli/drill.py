"""`whiteboard drill`: what retraining is worth after a concept drift."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import (
    CandidateOption,
    DesignArgument,
    JsonOption,
    errors_as_messages,
    only_with,
    with_command,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.drill import Drill

_DEFAULT = with_command("drill")


def drill(
    design: DesignArgument = _DEFAULT,
    candidate: CandidateOption = "",
    strength: Annotated[float, typer.Option(min=0, max=1, help="Of the concept drift.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the simulated data set.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Inject a concept drift and measure what retraining saves. A minute or two, no stack.

    Exits with 1 if no challenger was promoted, or the cost did not fall.

    Examples:
      whiteboard drill fraud
      whiteboard drill fraud --strength 0.5 --json
    """
    only_with(design, "drill")
    from services.fraud.evaluation.drill import plot, run

    candidate = candidate or design.first_candidate
    with errors_as_messages():
        found = run(candidate, strength, seed, bar)
    path = settings().home / "drill" / f"fraud-{candidate}-{strength:g}.png"
    plot(found, path)
    if as_json:
        show_json({**found.as_json(), "plot": str(path)})
    else:
        _show(found)
        say(f"plot {path.resolve()}")
    if strength and not found.means.get("retrained", 1e9) < found.means.get("unattended", 0.0):
        fail("retraining did not reduce the cost: see the gate decisions above")


def _show(found: "Drill") -> None:
    board = table("Retraining since the drift", "day", "", "EUR saved on 3 labelled days", "why")
    for night in found.nights:
        word = "[green]promoted[/]" if night.promoted else "[yellow]refused[/]"
        saved = f"{night.saves_eur:,.0f}" if night.until else "-"
        board.add_row(str(night.day), word if night.until else "-", saved, night.reasons[0])
    out.print(board)
    costs = table("Cost of a day, mean", "", "EUR")
    words = {
        "before": f"before the drift on day {found.drift_day}",
        "drifted": "drifted, before any retraining",
        "retrained": "the last three weeks, with retraining",
        "unattended": "the same weeks, without retraining",
    }
    for key, value in found.means.items():
        costs.add_row(words[key], f"{value:,.0f}")
    out.print(costs)
