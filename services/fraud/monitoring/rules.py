"""The audit of rules: which fired and what was decided, recomputed from the logged vector."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.decisions import vectors_of
from services.fraud.problem import APPROVE, DECLINE, OUTCOMES
from services.fraud.review.control import is_control
from services.fraud.rules import store
from services.fraud.rules.backtest import outcomes_of
from services.fraud.rules.evaluation import CompiledRules
from services.fraud.rules.files import Rules, shipped_rules
from services.fraud.rules.logged import model_outcomes, texts_of, times_us
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.types import Booleans, Integers

_MAX_EXAMPLES = 10


@dataclass(frozen=True)
class RulesAudit:
    """Outcome of an audit of rules.

    Attributes:
        decisions: Decisions whose rules and outcome were recomputed.
        mismatches: Decisions in which other rules fire, or that lead to another outcome.
        unknown: By label, decisions of a set of rules that is not in the history.
        before_rules: Decisions from before there were rules, which are not compared.
        examples: Ids of the first decisions that differ.
    """

    decisions: int = 0
    mismatches: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    before_rules: int = 0
    examples: list[str] = field(default_factory=list)


def audit_rules(decisions: pa.Table, sets: Mapping[str, CompiledRules]) -> RulesAudit:
    """Recompute the rules and the outcome of logged decisions.

    Args:
        decisions: N rows of `DECISION_SCHEMA`, of the present feature set.
        sets: By label, the sets of rules.
    """
    labels = decisions["rules"]
    counts = {e["values"]: e["counts"] for e in pc.value_counts(labels).to_pylist()}
    before_rules = counts.pop(None, 0)
    compared, wrong = 0, []
    for label in counts.keys() & sets.keys():
        rows = decisions.filter(pc.equal(labels, label))
        compared += len(rows)
        wrong += _differing(rows, sets[label])
    unknown = {label: count for label, count in counts.items() if label not in sets}
    return RulesAudit(compared, len(wrong), unknown, before_rules, wrong[:_MAX_EXAMPLES])


def _differing(rows: pa.Table, rules: CompiledRules) -> list[str]:
    """Ids of the decisions that differ from what the rules say."""
    model = model_outcomes(rows)
    fired = rules.fired_matrix(
        vectors_of(rows), rows["score"].to_numpy(), texts_of(rows), times_us(rows)
    )
    outcome = outcomes_of(model, fired, [rule.action for rule in rules.rules])
    logged = np.zeros_like(fired)
    index = {rule.id: number for number, rule in enumerate(rules.rules)}
    unknown = np.zeros(len(rows), dtype=bool)
    for row, names in enumerate(rows["fired"].to_pylist()):
        for name in names or ():
            if name in index:
                logged[row, index[name]] = True
            else:
                unknown[row] = True
    decided = pc.index_in(rows["decision"], pa.array(OUTCOMES)).to_numpy()
    outcome, wrong_draw = _with_control(rows, outcome)
    differs = (fired != logged).any(axis=1) | unknown | (outcome != decided) | wrong_draw
    return rows["decision_id"].filter(pa.array(differs)).to_pylist()


def _with_control(rows: pa.Table, outcome: Integers) -> tuple[Integers, Booleans]:
    """The outcomes (N,) after the control group is drawn anew, and where the log says otherwise."""
    chance = pc.fill_null(rows["propensity"], 1.0).to_numpy()
    logged = pc.fill_null(rows["control"], False).to_numpy()
    asked = np.nonzero((outcome == DECLINE) & rows["propensity"].is_valid().to_numpy())[0]
    ids = rows["transaction_id"].take(pa.array(asked)).to_pylist()
    drawn = np.zeros(len(rows), dtype=bool)
    drawn[asked] = [is_control(one, chance[i]) for one, i in zip(ids, asked, strict=True)]
    # Only a would-be decline has a chance below 1.
    wrong = (drawn != logged) | ((chance < 1.0) & (outcome != DECLINE))
    return np.where(drawn, APPROVE, outcome), wrong


def published_sets(config: Settings) -> dict[str, CompiledRules]:
    """By label, every set that may have acted: the shipped one and those of the history.

    Raises:
        ConnectionError: NATS does not answer.
    """
    return asyncio.run(_published_sets(config))


async def _published_sets(config: Settings) -> dict[str, CompiledRules]:
    shipped = shipped_rules()
    made = [CompiledRules(shipped.rule_set, 0, shipped.values)]
    nc = await connect(config, "rules audit")
    try:
        js = nc.jetstream()
        for record in await store.history(js):
            # Refused sets never acted; one that was published unchecked may not compile.
            if record.event is not store.RulesEvent.refused:
                texts = await store.list_texts(js, record.rule_set)
                rules = Rules(record.rule_set, texts)
                try:
                    made.append(CompiledRules(record.rule_set, record.version, rules.values))
                except ValueError:
                    continue
    finally:
        await nc.close()
    return {one.label: one for one in made}
