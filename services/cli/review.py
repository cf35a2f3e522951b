"""`whiteboard review`: what analysts are worth, over a simulated fortnight."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.fortnight import Row


def review(
    design: DesignArgument,
    seeds: Annotated[int, typer.Option(min=1, help="Simulated data sets.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Simulate a fortnight with rush hours, a fraud wave and few analysts. Minutes, no stack.

    Exits with 1 if the queue exceeds its bound, or the policy costs more than it should.

    Examples:
      whiteboard review fraud
      whiteboard review fraud --seeds 1 --json
    """
    only_with(design, "review")
    from services.fraud.evaluation import fortnight

    with errors_as_messages():
        rows = fortnight.run(range(seeds), bar)
    path = settings().home / "review" / "fraud.png"
    fortnight.plot(rows, path)
    if as_json:
        show_json({**fortnight.as_json(rows), "plot": str(path)})
    else:
        _show(rows)
        say(f"plot {path.resolve()}")
    if missed := list(fortnight.failures(rows)):
        fail("; ".join(missed))


def _show(rows: "list[Row]") -> None:
    made = table(
        "A simulated fortnight, EUR a day", "seed", "analysts", "reviews", "in time", "p95 wait",
        "slot", "policy", "knows the day", "one threshold", "difference, at most (95 %)",
    )  # fmt: skip
    for r in rows:
        made.add_row(
            str(r.seed), f"{r.analysts:g}", f"{r.reviewed:,}", f"{r.within:.1%}",
            f"{r.wait_p95_min:.0f} min", f"{r.slot_eur:.2f}", f"{r.cost:,.0f}",
            f"{r.cost_known_day:,.0f}", f"{r.cost_one_threshold:,.0f}",
            f"{r.against_threshold:+,.0f}, {r.upper:+,.0f}",
        )  # fmt: skip
    out.print(made)
