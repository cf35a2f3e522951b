"""`whiteboard why`."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import bar, err, fail, out, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.reasons import DeletionTest


def why(
    design: DesignArgument,
    decision: Annotated[str, typer.Argument(help="A decision's or transaction's id.")] = "",
    test: Annotated[
        bool, typer.Option("--test", help="Deletion test over the newest declines.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --test: how many declines.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Why a transaction was declined, sent to review or approved; or whether reasons hold.

    With --test it exits with 1 if fewer than 90 % of declines turn without their reasons.

    Examples:
      whiteboard why fraud 0f3c2d5e6b7a48991a2b3c4d5e6f7081
      whiteboard why fraud 0f3c2d5e6b7a48991a2b3c4d5e6f7081 --json
      whiteboard why fraud --test
    """
    only_with(design, "why")
    from services.fraud.evaluation import reasons

    if test is bool(decision):
        fail("give the id of a decision, or --test")
    with errors_as_messages():
        if test:
            found = reasons.deletion_test(settings(), count, bar)
        else:
            with err.status("reading the decision"):
                report = reasons.why(settings(), decision)
    if not test:
        show_json(report) if as_json else _show(report)
        return
    show_json(asdict(found)) if as_json else _show_test(found)
    if not found.turned >= reasons.TURNED_TARGET or found.max_gap > reasons.GAP_LIMIT:
        fail(f"reasons must turn {reasons.TURNED_TARGET:.0%} and add up within {reasons.GAP_LIMIT}")


def _show(report: dict[str, Any]) -> None:
    transaction = report["transaction"]
    out.print(
        f"[bold]{report['decision']}[/] of {transaction['amount_minor'] / 100:,.2f} EUR, customer "
        f"{transaction['customer_id']}, merchant {transaction['merchant_id']}: score "
        f"{report['score']:.4f}, threshold {report['threshold']:.4f}, {report['model']}",
        highlight=False,
    )
    if report.get("fired"):
        rules = f"{', '.join(report['fired'])} of version {report['rules']}"
        out.print(f"  rules that fired: {rules}", highlight=False)
    rows = table("reasons", "group", "log-odds", "this, and what is usual")
    for reason in report["reasons"]:
        rows.add_row(reason["group"], f"{reason['contribution']:+.2f}", "\n".join(_lines(reason)))
    if report["reasons"]:
        out.print(rows)
    if report.get("note"):
        out.print(f"  {report['note']}", highlight=False)
    known = {k: v for k, v in report["vector"].items() if v is not None and not math.isnan(v)}
    out.print(f"  {len(known)} features known, rows {report['versions']}", highlight=False)
    if seconds := report.get("stage_seconds"):
        stages = ", ".join(f"{name} {1e3 * each:.2f} ms" for name, each in seconds.items())
        out.print(f"  stages: {stages}", highlight=False)


def _lines(reason: dict[str, Any]) -> list[str]:
    found = [feature["text"] for feature in reason["features"]] or [reason["text"]]
    items = reason["items"][:3]
    return found + [f"{i['price']:.2f} EUR item: {i['contribution']:+.2f}" for i in items]


def _show_test(found: "DeletionTest") -> None:
    rows = table(f"{found.declines:,} declines, set to what is usual", "what", "then not declined")
    rows.add_row("the named reasons", f"{found.turned:.1%}")
    rows.add_row("the first reason alone", f"{found.turned_first:.1%}")
    rows.add_row("as many groups that contribute least", f"{found.turned_least:.1%}")
    out.print(rows)
    mix = ", ".join(f"{name} {n:,}" for name, n in sorted(found.mix.items(), key=lambda p: -p[1]))
    out.print(
        f"  first reasons: {mix}; contributions add up within {found.max_gap:.1e}", highlight=False
    )
