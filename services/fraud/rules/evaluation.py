"""A compiled set of rules: which of them fire, for one transaction or for a table of them.

Rules are evaluated one by one in a CEL context that is kept. A variable costs .55 us to set and an
expression .2 us to run, in the scorer twice that. So a rule's guards are compared first: they rule
out every rule for most transactions, and CEL has nothing to do. 50 rules as one list expression
took as long as 50 expressions (17 and 19 us), and there an error in one is an error in all.
"""

from collections.abc import Mapping, Sequence
from time import thread_time
from typing import Any

import cel
import numpy as np

from services.fraud.ingestion.events import Transaction, microseconds
from services.fraud.rules.expression import (
    NUMBERS,
    SCORE,
    CompiledRule,
    RuleRefused,
    compile_rule,
)
from services.fraud.rules.lists import Values
from services.fraud.rules.rule import Rule, RuleSet
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Integers

# A hundredth of the latency budget. 50 rules take 38 us without guards (docs/rules.md).
MAX_EVALUATION_US = 500.0
_PROBES = 64
_TIMED_ROUNDS = 5
# Index of each number in the scorer's vector; the score comes from elsewhere.
_INDEX = {name: index for index, name in enumerate(NUMBERS) if name != SCORE}
# Position of a value, and the lowest and the highest with which its rule may fire.
_Bound = tuple[int, float, float]


class CompiledRules:
    """A set of rules that can be evaluated. It is used by one thread at a time.

    Attributes:
        rule_set: The set.
        label: Its version, as decisions name it.
        rules: Its rules.
        errors: By id of a rule, how often its evaluation failed; it does not fire then.
    """

    def __init__(self, rule_set: RuleSet, version: int, lists: Mapping[str, Values]) -> None:
        """Compile a set.

        Args:
            version: Its version.
            lists: The values of each list it names.

        Raises:
            RuleRefused: a rule is no CEL, or names what there is not.
        """
        self.rule_set = rule_set
        self.label = rule_set.label(version)
        self.rules = rule_set.rules
        self.errors: dict[str, int] = {}
        compiled = [compile_rule(rule, frozenset(lists)) for rule in rule_set.rules]
        used = frozenset[str]().union(*(one.numbers for one in compiled))
        features = [name for name in NUMBERS if name in used - {SCORE}]
        self._columns = np.array([_INDEX[name] for name in features], np.intp)
        self._numbers = [*features, SCORE]
        self._texts = sorted(frozenset[str]().union(*(one.texts for one in compiled)))
        self._lookups = [
            (variable, text, lists[name])
            for variable, (text, name) in {
                key: value for one in compiled for key, value in one.memberships.items()
            }.items()
        ]
        # The variables of the context: numbers and memberships, which guards bound, then texts.
        bounded = [*self._numbers, *(variable for variable, *_ in self._lookups)]
        self._variables = [*bounded, *self._texts]
        self._guards = [_bounds(one, bounded) for one in compiled]
        self._compiled = compiled
        self._context = cel.Context()

    def fired(self, transaction: Transaction, vector: Floats, score: float) -> list[Rule]:
        """The rules that fire for one transaction.

        Args:
            vector: (len(FEATURES),) its features.
            score: The model's score.
        """
        texts = transaction_texts(transaction)
        values: list[Any] = vector.take(self._columns).tolist()
        values.append(score)
        values += [texts[text] in known for _, text, known in self._lookups]
        candidates = []
        for number, ((position, low, high), others) in enumerate(self._guards):
            if low <= values[position] <= high and all(
                low <= values[position] <= high for position, low, high in others
            ):
                candidates.append(number)
        if not candidates:
            return []
        values += [texts[name] for name in self._texts]
        hits = self._run(candidates, values, microseconds(transaction.event_time))
        return [self.rules[number] for number in hits]

    def fired_matrix(
        self,
        vectors: Floats,
        scores: Floats,
        texts: Mapping[str, Sequence[str]],
        time_us: Integers,
        step: ProgressCallback = lambda *_: None,
    ) -> Booleans:
        """(N, R): which of R rules fire for each of N transactions.

        Args:
            vectors: (N, F) features, F at least len(TABULAR).
            scores: (N,) scores.
            texts: By name in `TEXTS`, N values.
            time_us: (N,) event times, microseconds.
            step: Called with (done, N).
        """
        out = np.zeros((len(vectors), len(self.rules)), dtype=bool)
        chunk = 20_000
        for begin in range(0, len(vectors), chunk):
            part = slice(begin, begin + chunk)
            numbers = np.column_stack([vectors[part][:, self._columns], scores[part]])
            members = [[text in known for text in texts[name][part]]
                       for _, name, known in self._lookups]  # fmt: skip
            passed = self._guarded(np.column_stack([numbers, *members]))
            for row in np.flatnonzero(passed.any(axis=1)).tolist():
                named = (texts[name][begin + row] for name in self._texts)
                values = [*numbers[row].tolist(), *(known[row] for known in members), *named]
                candidates = np.flatnonzero(passed[row]).tolist()
                out[begin + row, self._run(candidates, values, int(time_us[begin + row]))] = True
            step(min(begin + chunk, len(vectors)), len(vectors))
        return out

    def _guarded(self, values: Floats) -> Booleans:
        """(N, R): whose guards hold, for values (N, V) of the bounded variables."""
        out = np.ones((len(values), len(self._guards)), dtype=bool)
        for number, (first, others) in enumerate(self._guards):
            for position, low, high in (first, *others):
                out[:, number] &= (values[:, position] >= low) & (values[:, position] <= high)
        return out

    def _run(self, candidates: Sequence[int], values: list[Any], time_us: int) -> list[int]:
        """Those of the candidates that fire, as positions.

        Args:
            values: Of `_variables`.
        """
        context = self._context
        context.update(dict(zip(self._variables, values, strict=True)))
        missing = {
            name for name, value in zip(self._numbers, values, strict=False) if value != value
        }
        hits = []
        for number in candidates:
            one = self._compiled[number]
            if not one.begin_us <= time_us < one.end_us or not missing.isdisjoint(one.numbers):
                continue
            try:
                if one.run(context) is True:
                    hits.append(number)
            # Whatever the expression raises: one rule must not fail the request.
            except Exception:
                self.errors[one.rule.id] = self.errors.get(one.rule.id, 0) + 1
        return hits

    def check(self) -> float:
        """Evaluate each rule on probes, and time the set.

        Returns:
            Microseconds of CPU that one evaluation of the set takes if no guard rules a rule out.

        Raises:
            RuleRefused: a rule fails, gives no boolean, or the set takes too long.
        """
        probes = _probes(len(self._numbers))
        for case, numbers in enumerate(probes):
            self._probe(self._probe_values(numbers, f"x{case}" if case % 2 else "", bool(case % 3)))
        every = range(len(self.rules))
        seconds = []
        for _ in range(_TIMED_ROUNDS):
            begin = thread_time()
            for numbers in probes:
                self._run(every, self._probe_values(numbers, "d1", False), 0)
            seconds.append((thread_time() - begin) / len(probes))
        took_us = min(seconds) * 1e6
        if took_us > MAX_EVALUATION_US:
            raise RuleRefused(
                f"the set takes {took_us:,.0f} us a transaction, at most {MAX_EVALUATION_US:.0f}: "
                "fewer or shorter rules"
            )
        return took_us

    def _probe_values(self, numbers: list[float], text: str, is_member: bool) -> list[Any]:
        return [*numbers, *[is_member] * len(self._lookups), *[text] * len(self._texts)]

    def _probe(self, values: list[Any]) -> None:
        self._context.update(dict(zip(self._variables, values, strict=True)))
        for one in self._compiled:
            try:
                value = one.run(self._context)
            except Exception as error:
                reason = str(error).strip().partition(". ")[0]
                raise RuleRefused(
                    f"{one.rule.id}: {reason}. Numbers are doubles: write `2.0 * amount`"
                ) from None
            if not isinstance(value, bool):
                raise RuleRefused(f"{one.rule.id}: gives {type(value).__name__} and no truth value")


def _bounds(rule: CompiledRule, variables: list[str]) -> tuple[_Bound, list[_Bound]]:
    """The first guard of a rule, and the others.

    A rule without guards gets one that always holds.
    """
    bounds = [(variables.index(one.variable), one.low, one.high) for one in rule.guards]
    first, *others = bounds or [(variables.index(SCORE), -np.inf, np.inf)]
    return first, others


def transaction_texts(transaction: Transaction) -> dict[str, str]:
    """The texts of a transaction, by name in `TEXTS`."""
    customer, device = transaction.customer_id, transaction.device_id or ""
    return {
        "customer_id": customer,
        "merchant_id": transaction.merchant_id,
        "device_id": device,
        "ip": transaction.ip or "",
        "customer_merchant": f"{customer}|{transaction.merchant_id}",
        "customer_device": f"{customer}|{device}" if device else "",
    }


def _probes(width: int) -> list[list[float]]:
    """Values that make most comparisons true once and false once."""
    random = np.random.default_rng(0)
    rows = [np.zeros(width), np.ones(width), np.full(width, 1e9), np.full(width, -1e9)]
    rows += list(random.lognormal(0, 3, (_PROBES - len(rows), width)))
    return [row.tolist() for row in rows]
