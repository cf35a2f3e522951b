"""`whiteboard costs`: read or change the money that decisions are made by."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.review.what_if import CostsChanged


def costs(
    design: DesignArgument,
    opex: Annotated[float | None, typer.Option(help="EUR of a declined genuine customer.")] = None,
    fee: Annotated[float | None, typer.Option(help="EUR of a chargeback, on top.")] = None,
    analyst_minute: Annotated[
        float | None, typer.Option(help="EUR of an analyst's minute.")
    ] = None,
    analyst_minutes: Annotated[float | None, typer.Option(help="Minutes of a review.")] = None,
    missed: Annotated[
        float | None, typer.Option(help="Share of frauds that analysts miss.")
    ] = None,
    wrongly_stopped: Annotated[
        float | None, typer.Option(help="Share of genuine that analysts stop.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change the costs while the stack runs, and decide the newest logged decisions again.

    Scorers follow within a second. Without an option it shows the present costs. Exits with 1 if
    the logged decisions, decided one by one, differ from the columnar result.

    Examples:
      whiteboard costs fraud --opex 8 --fee 25
      whiteboard costs fraud --json
    """
    only_with(design, "costs")
    from pydantic import ValidationError

    from services.fraud.review.live import CostChange
    from services.fraud.review.what_if import change_costs
    from services.platform.streaming.messages import validation_message

    given = {
        "opex": opex, "fee": fee, "analyst_minute": analyst_minute,
        "analyst_minutes": analyst_minutes, "missed": missed, "wrongly_stopped": wrongly_stopped,
    }  # fmt: skip
    with errors_as_messages():
        try:
            change = CostChange(**given)
        except ValidationError as error:
            fail(validation_message(error))
        found = change_costs(settings(), change)
    if as_json:
        show_json(asdict(found))
    else:
        _show(found)
    if found.brute_force_mismatches:
        fail("decided one by one, logged decisions differ from the columnar result")


def _show(found: "CostsChanged") -> None:
    made = table("Costs", "", "before", "now")
    for name, value in found.new.items():
        made.add_row(name.replace("_", " "), f"{found.old[name]:g}", f"{value:g}")
    out.print(made)
    applied = "" if found.applied_ms is None else f"; applied after {found.applied_ms:.0f} ms"
    say(
        f"{found.changed:,} of {found.decisions:,} logged decisions change: "
        f"{found.eur_per_day_old:,.2f} to {found.eur_per_day_new:,.2f} EUR a day under the "
        f"new costs; {found.brute_force_mismatches} brute-force mismatches{applied}"
    )
