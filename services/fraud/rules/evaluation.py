"""A compiled set of rules: which of them fire, for one transaction or for a table of them.

Rules are evaluated one by one in a CEL context that is kept and updated. 50 rules as one list
expression took as long as 50 expressions (17 and 19 us), and there an error in one is an error in
all.
"""

from collections.abc import Mapping, Sequence
from time import thread_time
from typing import Any

import cel
import numpy as np

from services.fraud.ingestion.events import Transaction, microseconds
from services.fraud.rules.expression import NUMBERS, SCORE, TEXTS, RuleRefused, compile_rule
from services.fraud.rules.lists import Values
from services.fraud.rules.rule import Rule, RuleSet
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Integers

# A hundredth of the latency budget. 50 rules take some 35 us (docs/rules.md).
MAX_EVALUATION_US = 500.0
_PROBES = 64
_TIMED_ROUNDS = 5
# Index of each number in the scorer's vector; the score comes from elsewhere.
_INDEX = {name: index for index, name in enumerate(NUMBERS) if name != SCORE}


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
        self._numbers = [name for name in NUMBERS if name in used]
        features = [name for name in self._numbers if name != SCORE]
        self._columns = [_INDEX[name] for name in features]
        self._texts = sorted(frozenset[str]().union(*(one.texts for one in compiled)))
        self._lookups = [
            (variable, text, lists[name])
            for variable, (text, name) in {
                key: value for one in compiled for key, value in one.memberships.items()
            }.items()
        ]
        bit = {name: 1 << position for position, name in enumerate(self._numbers)}
        self._compiled = [
            (number, one.run, sum(bit[name] for name in one.numbers), one.begin_us, one.end_us)
            for number, one in enumerate(compiled)
        ]
        self._context = cel.Context()

    def fired(self, transaction: Transaction, vector: Floats, score: float) -> list[Rule]:
        """The rules that fire for one transaction.

        Args:
            vector: (len(FEATURES),) its features.
            score: The model's score.
        """
        numbers = vector[self._columns].tolist()
        if len(numbers) < len(self._numbers):
            numbers.append(score)
        texts = transaction_texts(transaction)
        hits = self._evaluate(numbers, texts, microseconds(transaction.event_time))
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
            numbers = vectors[part][:, self._columns]
            if len(self._columns) < len(self._numbers):
                numbers = np.column_stack([numbers, scores[part]])
            rows = zip(*(texts[name][part] for name in self._texts), strict=True)
            times = time_us[part].tolist()
            found = zip(numbers.tolist(), rows if self._texts else [()] * len(times), times,
                        strict=True)  # fmt: skip
            for row, (known, values, time) in enumerate(found, start=begin):
                by_name = dict(zip(self._texts, values, strict=True))
                for number in self._evaluate(known, by_name, time):
                    out[row, number] = True
            step(min(begin + chunk, len(vectors)), len(vectors))
        return out

    def _evaluate(self, numbers: list[float], texts: Mapping[str, str], time_us: int) -> list[int]:
        """Positions of the rules that fire."""
        variables: dict[str, Any] = dict(zip(self._numbers, numbers, strict=True))
        for name in self._texts:
            variables[name] = texts[name]
        for variable, text, values in self._lookups:
            variables[variable] = texts[text] in values
        missing = 0
        for position, value in enumerate(numbers):
            if value != value:
                missing |= 1 << position
        context = self._context
        context.update(variables)
        hits = []
        for number, run, needs, begin_us, end_us in self._compiled:
            if needs & missing or not begin_us <= time_us < end_us:
                continue
            try:
                if run(context) is True:
                    hits.append(number)
            # Whatever the expression raises: one rule must not fail the request.
            except Exception:
                rule = self.rules[number].id
                self.errors[rule] = self.errors.get(rule, 0) + 1
        return hits

    def check(self) -> float:
        """Evaluate each rule on probes, and time the set.

        Returns:
            Microseconds of CPU that one evaluation of the set takes.

        Raises:
            RuleRefused: a rule fails, gives no boolean, or the set takes too long.
        """
        probes = _probes(len(self._numbers))
        for case, numbers in enumerate(probes):
            self._probe(numbers, f"x{case}" if case % 2 else "", bool(case % 3))
        texts = dict.fromkeys(TEXTS, "d1")
        seconds = []
        for _ in range(_TIMED_ROUNDS):
            begin = thread_time()
            for numbers in probes:
                self._evaluate(numbers, texts, 0)
            seconds.append((thread_time() - begin) / len(probes))
        took_us = min(seconds) * 1e6
        if took_us > MAX_EVALUATION_US:
            raise RuleRefused(
                f"the set takes {took_us:,.0f} us a transaction, at most {MAX_EVALUATION_US:.0f}: "
                "fewer or shorter rules"
            )
        return took_us

    def _probe(self, numbers: list[float], text: str, is_member: bool) -> None:
        variables: dict[str, Any] = dict(zip(self._numbers, numbers, strict=True))
        variables |= dict.fromkeys(self._texts, text)
        variables |= {variable: is_member for variable, *_ in self._lookups}
        self._context.update(variables)
        for number, run, *_ in self._compiled:
            rule = self.rules[number].id
            try:
                value = run(self._context)
            except Exception as error:
                reason = str(error).strip().partition(". ")[0]
                raise RuleRefused(
                    f"{rule}: {reason}. Numbers are doubles: write `2.0 * amount`"
                ) from None
            if not isinstance(value, bool):
                raise RuleRefused(f"{rule}: gives {type(value).__name__} and no truth value")


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
