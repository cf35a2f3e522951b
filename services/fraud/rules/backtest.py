"""What rules would have done to decisions, and in money once their truth is known.

A rule is measured on top of the model and of the other rules of its set: what the decisions cost
with it, and without it. An `observe` rule is measured as if it took its `trial` action.

Outcomes cost what the cost model says (`problem.py`), by the newest costs that were logged; reviews
at the analysts' mean error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.rules.evaluation import CompiledRules
from services.fraud.rules.outcome import combine
from services.fraud.rules.rule import Rule
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Integers

_ACTING = ("decline", "review", "approve")
_DRAWS = 1_000
# Counts held in memory at a time: all draws of 100,000 customers would take 1.6 GB.
_MAX_COUNTS = 2_000_000
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class DecidedTransactions:
    """N transactions that were decided, with their truth once it is known.

    Attributes:
        vectors: (N, F) features, F at least len(TABULAR).
        scores: (N,) the model's scores.
        model_outcome: (N,) index into `OUTCOMES` of what the model alone decided.
        texts: By name in `expression.TEXTS`, N values.
        time_us: (N,) event times, microseconds.
        fraud: (N,) truth; None before any dispute window has closed.
        amount: (N,) minor units.
        customer: (N,) number of the customer, for the interval.
        scenario: (N,) name of the fraud's scenario; "fraud" if only that is known.
        weight: (N,) how many transactions each stands for; None: itself.
        costs: What outcomes cost.
    """

    vectors: Floats
    scores: Floats
    model_outcome: Integers
    texts: Mapping[str, Sequence[str]]
    time_us: Integers
    fraud: Booleans | None
    amount: Floats
    customer: Integers
    scenario: Sequence[str]
    weight: Floats | None = None
    costs: CostModel = field(default_factory=CostModel)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def days(self) -> int:
        """Number of days with transactions; ValueError without transactions."""
        return len(np.unique(self.time_us // _DAY_US))


@dataclass(frozen=True)
class RuleWorth:
    """What one rule did, and what it earned. What needs the truth is NaN or None without it.

    Attributes:
        id: The rule.
        action: What it does.
        measured_as: The action it was measured with.
        hits: Transactions in which it fired.
        frauds: How many of these were fraud.
        precision: Share of frauds among the hits; NaN without hits.
        recall: By scenario, share of its frauds in which the rule fired; empty without the truth.
        overlap: Share of the hits whose outcome is the same without the rule; NaN without hits.
        eur_per_day: What it saves a day on top of the model and the other rules.
        low: Lower bound of its 95 % interval, from resampled customers.
        high: Upper bound.
    """

    id: str
    action: str
    measured_as: str
    hits: int
    frauds: int | None
    precision: float
    recall: dict[str, float]
    overlap: float
    eur_per_day: float
    low: float
    high: float


@dataclass(frozen=True)
class BackTest:
    """The result of a back-test. What needs the truth is NaN or None without it.

    Attributes:
        transactions: Number of transactions.
        days: Number of days they come from.
        frauds: Number of frauds.
        cost_model: EUR a day of the model alone.
        cost_rules: EUR a day of the model with the rules that act.
        outcomes: By outcome, number of transactions with the rules.
        rules: One a rule, in the order of the set.
    """

    transactions: int
    days: int
    frauds: int | None
    cost_model: float
    cost_rules: float
    outcomes: dict[str, int]
    rules: list[RuleWorth]


def back_test(
    rules: CompiledRules,
    made: DecidedTransactions,
    step: ProgressCallback = lambda *_: None,
    fired: Booleans | None = None,
) -> BackTest:
    """Apply rules to decided transactions. ValueError if there are none.

    Without their truth, it finds hits and changed outcomes.

    Args:
        step: Called with (done, N).
        fired: (N, R) which rules fire, where that is known already.
    """
    if not len(made):
        raise ValueError("no decided transactions")
    if fired is None:
        fired = rules.fired_matrix(made.vectors, made.scores, made.texts, made.time_us, step)
    actions = [rule.action for rule in rules.rules]
    with_rules = outcomes_of(made.model_outcome, fired, actions)
    per_day = 1.0 / (100.0 * made.days)
    return BackTest(
        transactions=len(made),
        days=made.days,
        frauds=None if made.fraud is None else int(made.fraud.sum()),
        cost_model=float(costs(made.model_outcome, made).sum()) * per_day,
        cost_rules=float(costs(with_rules, made).sum()) * per_day,
        outcomes={name: int((with_rules == i).sum()) for i, name in enumerate(OUTCOMES)},
        rules=[_worth(made, fired, rules.rules, number) for number in range(len(rules.rules))],
    )


def outcomes_of(model: Integers, fired: Booleans, actions: Sequence[str]) -> Integers:
    """(N,) outcomes as indices into `OUTCOMES`, by `combine`.

    Args:
        model: (N,) the model's outcomes.
        fired: (N, R) rules that fired.
        actions: R actions.

    Examples:
        >>> fired = np.array([[True, False], [True, True]])
        >>> outcomes_of(np.array([0, 0]), fired, ["review", "decline"]).tolist()
        [2, 1]
    """
    taken = np.zeros(len(model), dtype=np.int64)
    for bit, action in enumerate(_ACTING):
        chosen = [number for number, one in enumerate(actions) if one == action]
        taken |= fired[:, chosen].any(axis=1).astype(np.int64) << bit
    return _combinations()[model, taken]


def costs(outcome: Integers, made: DecidedTransactions) -> Floats:
    """(N,) cost of outcomes, minor units, as often as each counts; NaN without the truth."""
    if made.fraud is None:
        return np.full(len(made), np.nan)
    found = made.costs.costs(outcome, made.fraud, made.amount)
    return found if made.weight is None else found * made.weight


def _combinations() -> Integers:
    """(3, 8): `combine` for each outcome of the model and each subset of actions."""
    table = np.zeros((len(OUTCOMES), 1 << len(_ACTING)), dtype=np.int64)
    for model, taken in product(range(table.shape[0]), range(table.shape[1])):
        actions = [action for bit, action in enumerate(_ACTING) if taken >> bit & 1]
        table[model, taken] = OUTCOMES.index(combine(OUTCOMES[model], actions))
    return table


def _worth(
    made: DecidedTransactions, fired: Booleans, rules: Sequence[Rule], number: int
) -> RuleWorth:
    rule = rules[number]
    measured_as = rule.trial if rule.action == "observe" else rule.action
    actions = [one.action for one in rules]
    hit = fired[:, number]
    without = outcomes_of(
        made.model_outcome, fired, [*actions[:number], "observe", *actions[number + 1 :]]
    )
    acting = outcomes_of(
        made.model_outcome, fired, [*actions[:number], measured_as, *actions[number + 1 :]]
    )
    saved = costs(without, made) - costs(acting, made)
    total, low, high = _interval(saved, made.customer)
    hits = int(hit.sum())
    frauds = None if made.fraud is None else int((hit & made.fraud).sum())
    same = int((hit & (without == acting)).sum())
    return RuleWorth(
        id=rule.id,
        action=rule.action,
        measured_as=measured_as,
        hits=hits,
        frauds=frauds,
        precision=frauds / hits if hits and frauds is not None else float("nan"),
        recall=_recall(hit, made),
        overlap=same / hits if hits else float("nan"),
        eur_per_day=total / (100 * made.days),
        low=low / (100 * made.days),
        high=high / (100 * made.days),
    )


def _recall(hit: Booleans, made: DecidedTransactions) -> dict[str, float]:
    if made.fraud is None:
        return {}
    scenario = np.asarray(made.scenario, dtype=object)[made.fraud]
    names = sorted(set(scenario.tolist()))
    return {name: float(hit[made.fraud][scenario == name].mean()) for name in names}


def _interval(saved: Floats, customer: Integers) -> tuple[float, float, float]:
    """Sum of N savings, and its 95 % interval when customers are drawn anew (Poisson bootstrap)."""
    if np.isnan(saved).any():
        return np.nan, np.nan, np.nan
    changed = np.nonzero(saved)[0]
    if not len(changed):
        return 0.0, 0.0, 0.0
    _, of = np.unique(customer[changed], return_inverse=True)
    by_customer = np.bincount(of, weights=saved[changed]).astype(np.float64)
    low, high = np.quantile(_drawn_sums(by_customer), [0.025, 0.975])
    return float(by_customer.sum()), float(low), float(high)


def _drawn_sums(by_customer: Floats) -> Floats:
    """(_DRAWS,) sums of K customers' savings, each as often as it is drawn."""
    rng = np.random.default_rng(0)
    count = len(by_customer)
    chunk = max(_MAX_COUNTS // count, 1)
    sizes = [min(chunk, _DRAWS - begin) for begin in range(0, _DRAWS, chunk)]
    return np.concatenate([rng.poisson(1.0, (size, count)) @ by_customer for size in sizes])
