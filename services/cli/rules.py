"""`whiteboard rules`: the rules beside the model, checked and measured before they act."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.cli.options import (
    DesignArgument,
    JsonOption,
    errors_as_messages,
    only_with,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from nats.aio.client import Client

    from services.fraud.rules.backtest import BackTest, RuleWorth
    from services.fraud.rules.evaluation import CompiledRules
    from services.fraud.rules.files import Rules
    from services.fraud.rules.store import RulesRecord

T = TypeVar("T")
_COLOURS = {"decline": "red", "review": "yellow", "approve": "green", "observe": "dim"}
_REFUSED = 2
_STAR = "  * observes; measured as if it acted so"


class Verb(StrEnum):
    """What to do with rules."""

    list = "list"
    check = "check"
    try_ = "try"
    publish = "publish"
    retire = "retire"
    history = "history"


def rules(
    design: DesignArgument,
    verb: Annotated[Verb, typer.Argument(help="What to do.")],
    target: Annotated[
        str, typer.Argument(help="check, try, publish: a rule file; retire: a rule's id.")
    ] = "",
    why: Annotated[str, typer.Option(help="publish, retire: the reason, for the history.")] = "",
    unchecked: Annotated[
        bool,
        typer.Option(help="publish: without the check, to see scorers refuse a poisoned set."),
    ] = False,
    simulated: Annotated[
        bool, typer.Option(help="try: on simulated days instead of the lake's logged decisions.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="try --simulated: number of seeds.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Check, measure, publish and retire the rules beside the model.

    Exits with 2 if a set of rules is refused; the old one stays.

    Examples:
      whiteboard rules fraud list
      whiteboard rules fraud check services/fraud/conf/rules.yaml
      whiteboard rules fraud try my-rules.yaml --simulated
      whiteboard rules fraud publish my-rules.yaml --why "card testing since noon"
      whiteboard rules fraud retire card-testing-burst
      whiteboard rules fraud history --json
    """
    only_with(design, "rules")
    needs_target = verb in (Verb.check, Verb.try_, Verb.publish, Verb.retire)
    if needs_target != bool(target):
        missing = "needs a rule file" if verb is not Verb.retire else "needs the id of a rule"
        raise typer.BadParameter(f"{verb} {missing if needs_target else 'takes no target'}")
    with errors_as_messages():
        if verb is Verb.list:
            _list(as_json)
        elif verb is Verb.check:
            _show_check(_compiled(_read(target)), as_json)
        elif verb is Verb.try_:
            _try(target, design.first_candidate, simulated, seeds, as_json)
        elif verb is Verb.publish:
            _publish(target, why, unchecked, as_json)
        elif verb is Verb.retire:
            _retire(target, why, as_json)
        else:
            _history(as_json)


def _read(target: str) -> "Rules":
    from services.fraud.rules.expression import RuleRefused
    from services.fraud.rules.files import read_rules
    from services.fraud.rules.lists import ListRefused

    try:
        return read_rules(Path(target))
    except (RuleRefused, ListRefused) as error:
        fail(f"refused: {error}", _REFUSED)
    except FileNotFoundError as error:
        fail(f"no file {error.filename}")


def _compiled(found: "Rules", version: int = 0) -> "CompiledRules":
    from services.fraud.rules.evaluation import CompiledRules
    from services.fraud.rules.expression import RuleRefused

    try:
        compiled = CompiledRules(found.rule_set, version, found.values)
        compiled.check()
    except RuleRefused as error:
        fail(f"refused: {error}", _REFUSED)
    return compiled


def _show_check(compiled: "CompiledRules", as_json: bool) -> None:
    took = compiled.check()
    if as_json:
        show_json({"rules": len(compiled.rules), "evaluation_us": took, "refused": ""})
    else:
        out.print(f"{len(compiled.rules)} rules compile; a transaction takes {took:.0f} us")


def _with_nats(ask: "Callable[[Client], Awaitable[T]]") -> T:
    from services.platform.streaming.connection import connect

    async def run() -> T:
        nc = await connect(settings(), "rules")
        try:
            return await ask(nc)
        finally:
            await nc.close()

    return asyncio.run(run())


def _acting() -> "tuple[int, Rules]":
    """Version and content of the set that acts: the announced one, or the shipped one."""
    from services.fraud.rules import store
    from services.fraud.rules.files import Rules, shipped_rules

    async def ask(nc: "Client") -> "tuple[int, Rules]":
        note = await store.current(nc.jetstream())
        if note is None:
            return 0, shipped_rules()
        texts = await store.list_texts(nc.jetstream(), note.rule_set)
        return note.version, Rules(note.rule_set, texts)

    return _with_nats(ask)


def _list(as_json: bool) -> None:
    version, found = _acting()
    rule_set = found.rule_set
    if as_json:
        show_json({"version": version, **rule_set.model_dump(mode="json")})
        return
    title = f"Rules {rule_set.label(version)}" + ("" if version else ", as shipped")
    board = table(title, "rule", "action", "when", "owner", "valid")
    for rule in rule_set.rules:
        ends = [f"{end:%Y-%m-%d %H:%M}" if end else "" for end in (rule.valid_from,
                rule.valid_until)]  # fmt: skip
        valid = " to ".join(ends) if any(ends) else ""
        action = f"[{_COLOURS[rule.action]}]{rule.action}[/]"
        board.add_row(rule.id, action, rule.when.replace("[", "\\["), rule.owner, valid)
    out.print(board)
    for name, one in rule_set.lists.items():
        out.print(f"  list {name}: {one.entries:,} entries", highlight=False)


def _try(target: str, candidate: str, simulated: bool, seeds: int, as_json: bool) -> None:
    found = _read(target)
    compiled = _compiled(found)
    if simulated:
        from services.fraud.evaluation.rule_worth import measure

        result = measure(found, candidate, range(seeds), bar)
    else:
        from services.fraud.review.policy import usual_costs
        from services.fraud.rules.backtest import back_test
        from services.fraud.rules.logged import decided_transactions
        from services.platform.storage.lake import Lake

        with bar("logged decisions"):
            made = decided_transactions(Lake(settings()), usual_costs)
        with bar(f"{len(compiled.rules)} rules on {len(made):,} decisions") as step:
            result = back_test(compiled, made, step)
    if as_json:
        from dataclasses import asdict

        show_json(asdict(result))
    else:
        _show_back_test(result)


def _show_back_test(found: "BackTest") -> None:
    title = f"{found.transactions:,} decided transactions of {found.days} days"
    outcomes = ", ".join(f"{count:,} {name}" for name, count in found.outcomes.items())
    if found.frauds is None:
        _show_hits(found, title)
        out.print(
            f"  with the rules: {outcomes}. No dispute window has closed yet, so precision and "
            "money are unknown: let `whiteboard simulate fraud` run on, or add `--simulated`",
            highlight=False,
        )
        return
    board = table(
        f"{title}, {found.frauds:,} frauds: each rule on top of the model and the other rules",
        "rule", "as", "hits", "precision", "same without", "EUR a day", "95 %",
    )  # fmt: skip
    for one in found.rules:
        colour = "green" if one.low > 0 else "red" if one.high < 0 else "dim"
        board.add_row(
            one.id, _measured_as(one), f"{one.hits:,}", _or_dash(one.precision, ".2f"),
            _or_dash(one.overlap, ".0%"), f"[{colour}]{one.eur_per_day:+,.1f}[/]",
            f"{one.low:+,.1f} to {one.high:+,.1f}",
        )  # fmt: skip
    out.print(board)
    out.print(_STAR, highlight=False)
    _show_recall(found.rules)
    out.print(
        f"  cost a day: model alone {found.cost_model:,.0f} EUR, with the rules that act "
        f"{found.cost_rules:,.0f} EUR; {outcomes}",
        highlight=False,
    )


def _show_hits(found: "BackTest", title: str) -> None:
    board = table(f"{title}, no outcome is known yet", "rule", "as", "hits", "changes")
    for one in found.rules:
        board.add_row(
            one.id, _measured_as(one), f"{one.hits:,}", _or_dash(1.0 - one.overlap, ".0%")
        )
    out.print(board)
    out.print(_STAR, highlight=False)


def _show_recall(rules: "list[RuleWorth]") -> None:
    scenarios = sorted({name for one in rules for name in one.recall})
    if len(scenarios) < 2:  # the lake knows frauds, but not their scenarios
        return
    board = table("Share of the frauds in which a rule fired, by scenario", "rule", *scenarios)
    for one in rules:
        if any(one.recall.values()):
            board.add_row(one.id, *(f"{one.recall[name]:.2f}" for name in scenarios))
    out.print(board)


def _measured_as(one: "RuleWorth") -> str:
    return one.measured_as + ("*" if one.action == "observe" else "")


def _or_dash(value: float, form: str) -> str:
    return "-" if isnan(value) else format(value, form)


def _publish(target: str, why: str, unchecked: bool, as_json: bool) -> None:
    from services.fraud.rules import store
    from services.fraud.rules.evaluation import CompiledRules
    from services.fraud.rules.expression import RuleRefused

    found = _read(target)
    event, reasons = store.RulesEvent.published, [why] if why else []
    if not unchecked:
        try:
            CompiledRules(found.rule_set, 0, found.values).check()
        except RuleRefused as error:
            event, reasons = store.RulesEvent.refused, [str(error)]
    record = _with_nats(lambda nc: store.publish(nc, found, reasons, event))
    _show_record(record, as_json)


def _retire(rule: str, why: str, as_json: bool) -> None:
    from services.fraud.rules import store
    from services.fraud.rules.files import Rules

    _, found = _acting()
    kept = tuple(one for one in found.rule_set.rules if one.id != rule)
    if len(kept) == len(found.rule_set.rules):
        known = ", ".join(one.id for one in kept)
        fail(f"no rule {rule!r} acts: choose from {known or 'none'}")
    without = Rules(found.rule_set.model_copy(update={"rules": kept}), found.texts)
    reasons = [f"{rule} retired", *([why] if why else [])]
    record = _with_nats(lambda nc: store.publish(nc, without, reasons, store.RulesEvent.retired))
    _show_record(record, as_json)


def _show_record(record: "RulesRecord", as_json: bool) -> None:
    refused = record.event == "refused"
    if as_json:
        show_json(_row_json(record))
    elif not refused:
        label = record.rule_set.label(record.version)
        say(f"[green]{label}[/] {record.event}: scorers take it within a second")
    if refused:
        fail(f"refused: {'; '.join(record.reasons)}; version {record.before} stays", _REFUSED)


def _row_json(record: "RulesRecord") -> dict[str, Any]:
    made = record.model_dump(mode="json", exclude={"rule_set"})
    return {**made, "label": record.rule_set.label(record.version),
            "rules": len(record.rule_set.rules)}  # fmt: skip


def _history(as_json: bool) -> None:
    from services.fraud.rules import store

    records = _with_nats(lambda nc: store.history(nc.jetstream()))
    if as_json:
        show_json({"history": [_row_json(record) for record in records]})
        return
    board = table("History of rules", "at (UTC)", "version", "", "rules", "in place of", "why")
    colours = {"published": "green", "refused": "red", "retired": "yellow"}
    for record in records:
        board.add_row(
            f"{record.at:%Y-%m-%d %H:%M:%S}", record.rule_set.label(record.version),
            f"[{colours[record.event]}]{record.event}[/]", str(len(record.rule_set.rules)),
            f"version {record.before}" if record.before else "as shipped",
            "; ".join(record.reasons).replace("[", "\\["),
        )  # fmt: skip
    out.print(board)
