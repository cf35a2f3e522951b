"""`whiteboard drill`."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.designs import DesignArgument, DesignName, fraud_alone
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.drill import Drill


def drill(
    design: DesignArgument = DesignName.fraud,
    candidate: Annotated[str, typer.Option(help="Which candidate is retrained.")] = "xgboost",
    strength: Annotated[float, typer.Option(min=0, max=1, help="Of the concept drift.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the simulated world.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Change the fraudsters' ways and see what retraining is worth. A minute or two, no stack.

    Exits with 1 if no challenger was promoted, or the cost did not fall.

    Examples:
      whiteboard drill fraud
      whiteboard drill fraud --strength 0.5 --json
    """
    fraud_alone(design, "`whiteboard night cv` retrains the inspector")
    from services.fraud.evaluation.drill import plot, run

    try:
        found = run(candidate, strength, seed, bar)
    except (KeyError, ValueError) as error:
        fail(str(error.args[0]))
    path = settings().home / "drill" / f"fraud-{candidate}-{strength:g}.png"
    plot(found, path)
    if as_json:
        show_json({**found.as_json(), "plot": str(path)})
    else:
        _show(found)
        say(f"plot {path.resolve()}")
    if strength and not found.means.get("retrained", 1e9) < found.means.get("unattended", 0.0):
        fail("retraining did not help: see the nights above")


def _show(found: "Drill") -> None:
    board = table("Nights since the drift", "day", "", "EUR saved on 3 labelled days", "why")
    for night in found.nights:
        word = "[green]promoted[/]" if night.promoted else "[yellow]refused[/]"
        judged = f"{night.saves_eur:,.0f}" if night.until else "-"
        board.add_row(str(night.day), word if night.until else "-", judged, night.reasons[0])
    out.print(board)
    costs = table("Cost of a day, mean", "", "EUR")
    words = {
        "before": f"before the drift on day {found.drift_day}",
        "drifted": "drifted, and nobody had learnt of it",
        "retrained": "the last three weeks, retrained",
        "unattended": "the same weeks, had nobody retrained",
    }
    for key, value in found.means.items():
        costs.add_row(words[key], f"{value:,.0f}")
    out.print(costs)
