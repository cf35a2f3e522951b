"""A simulated fortnight of decisions under analysts' capacity, with rush hours and a fraud wave.

The simulator's days go through the real kernel, candidate, policy and price of a slot; the queue
is simulated event by event, on the clock of event time. Three ways to decide are compared on the
same transactions: the policy with its queue; the allocation that knows each day's scores and
amounts in advance; and the single threshold that is best in hindsight. Costs are those of
`CostModel.costs` with the truth.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from services.fraud.evaluation.simulated_data import SimulatedData, midnight
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.problem import (
    ANALYST_MINUTES,
    APPROVE,
    DECLINE,
    REVIEW,
    REVIEW_BOUND_MINUTES,
    CostModel,
)
from services.fraud.retraining.training import new_candidate
from services.fraud.review.price import slot_price
from services.fraud.simulator.drift import Drift
from services.platform.evaluation.metrics import calibration_error
from services.platform.progress import ProgressBar
from services.platform.types import Booleans, Floats, Integers

FIT_UNTIL, LIVE_FROM, DAYS = 34, 41, 14
# Fraudsters strike twice as often from the eighth to the eleventh day: `Drift.concept`.
WAVE = (8, 11)
ANALYSTS = (0, 0.5, 1, 2, 4)
# The controller's period, and the time until a scorer follows, together.
PRICE_DELAY_S = 5.0
BOOTSTRAP_DRAWS = 2_000
_BOUND_S = REVIEW_BOUND_MINUTES * 60
_REVIEW_S = ANALYST_MINUTES * 60


@dataclass(frozen=True)
class Live:
    """N transactions of the fortnight.

    Attributes:
        time: (N,) seconds.
        score: (N,) probability of fraud.
        amount: (N,) minor units.
        fraud: (N,) truth.
        customer: (N,) number of the customer.
    """

    time: Floats
    score: Floats
    amount: Floats
    fraud: Booleans
    customer: Integers


@dataclass(frozen=True)
class QueueRun:
    """What the queue did.

    Attributes:
        outcome: (N,) outcome codes.
        waits: (R,) seconds from arrival to an analyst, of R reviews.
        price: Mean price of a slot over the transactions, minor units.
    """

    outcome: Integers
    waits: Floats
    price: float


@dataclass(frozen=True)
class Row:
    """One number of analysts on one seed; EUR a day.

    Attributes:
        within: Share of reviews that began within the bound.
        excess: Cost beyond the allocation that knows the day, as a share of that one's cost.
        against_threshold: Cost less that of the best single threshold.
        upper: Upper 95 % bound of it, by a paired bootstrap over customers.
    """

    seed: int
    analysts: float
    reviewed: int
    within: float
    wait_p95_min: float
    slot_eur: float
    cost: float
    cost_known_day: float
    cost_one_threshold: float
    cost_approve_all: float
    excess: float
    against_threshold: float
    upper: float
    ece: float


def run(seeds: Sequence[int], bar: ProgressBar, analysts: Sequence[float] = ANALYSTS) -> list[Row]:
    """Simulate the fortnight of each seed with each number of analysts."""
    rows = []
    for seed in seeds:
        live = fortnight(seed, bar)
        with bar(f"seed {seed}: queues") as step:
            for number, count in enumerate(analysts):
                rows.append(_row(seed, live, count))
                step(number + 1, len(analysts))
    return rows


def fortnight(seed: int, bar: ProgressBar) -> Live:
    """Train on the weeks before, and score the fortnight."""
    begin, end = (midnight(LIVE_FROM + day) for day in WAVE)
    schedule = ((begin, Drift(concept=0.5)), (end, Drift()))
    with bar(f"seed {seed}: simulating") as step:
        data = SimulatedData(seed, LIVE_FROM + DAYS, schedule, step)
    candidate = new_candidate("xgboost")
    fit, valid = data.examples(WARM_UP_DAYS, FIT_UNTIL), data.examples(FIT_UNTIL, LIVE_FROM)
    with bar(f"seed {seed}: training") as step:
        candidate.fit(fit, valid, seed, step)
    mask = data.between_days(LIVE_FROM, LIVE_FROM + DAYS)
    examples = data.examples(LIVE_FROM, LIVE_FROM + DAYS)
    score = candidate.score(examples).astype(np.float64)
    return Live(data.time[mask], score, data.amount[mask], data.fraud[mask], data.customer[mask])


def simulate_queue(live: Live, analysts: float, seed: int = 0) -> QueueRun:
    """Decide one transaction after the other, with the price that the backlog sets.

    Args:
        analysts: How many work around the clock. A half works at half speed.
        seed: Of the durations of reviews, which are exponential.
    """
    rng = np.random.default_rng(seed)
    costs, waits, prices = CostModel(), [], 0.0
    outcome = np.zeros(len(live.time), np.int64)
    desks = max(round(analysts), 1) if analysts else 0
    duration = _REVIEW_S * desks / analysts if analysts else 0.0
    free = [0.0] * desks  # when each analyst is free
    open_until: list[float] = []  # when each open case will be finished
    price, next_price = slot_price(0, analysts, costs), live.time[0] + PRICE_DELAY_S
    for i, now in enumerate(live.time):
        while open_until and open_until[0] <= now:
            heapq.heappop(open_until)
        prices += price if np.isfinite(price) else costs.opex
        of = replace(costs, slot=price)
        outcome[i] = of.outcome(live.score[i], live.amount[i])
        if outcome[i] == REVIEW:
            begin = max(heapq.heappop(free), now)
            end = begin + rng.exponential(duration)
            heapq.heappush(free, end)
            heapq.heappush(open_until, end)
            waits.append(begin - now)
        if now >= next_price:
            # The new price counts from the next transaction on: a delay of one period at least.
            price, next_price = slot_price(len(open_until), analysts, costs), now + PRICE_DELAY_S
    return QueueRun(outcome, np.array(waits), prices / len(live.time))


def known_day(live: Live, analysts: float) -> Integers:
    """(N,) the outcomes of the best allocation of slots that knows scores and amounts in advance.

    A slot is a review's mean duration of one analyst. A transaction may take any slot that begins
    within the bound after it. Sets of transactions that have slots are a matroid, so taking them by
    what a review saves, greedily, is optimal. Source: Lawler, "Combinatorial Optimization", 1976,
    chapter 7 (scheduling unit jobs by deadlines).
    """
    costs = CostModel()
    outcome = costs.outcomes(live.score, 0.0, live.amount).astype(np.int64)
    saved = costs.saved_by_review(live.score, live.amount)
    worth = np.nonzero(saved > 0)[0]
    if not analysts:
        return outcome
    slot_s = _REVIEW_S / analysts
    begin = live.time.min()
    first = np.ceil((live.time - begin) / slot_s).astype(np.int64)
    last = np.floor((live.time - begin + _BOUND_S) / slot_s).astype(np.int64)
    matching = _Matching(first, last)
    for i in worth[np.argsort(-saved[worth], kind="stable")]:
        if matching.add(int(i)):
            outcome[i] = REVIEW
    return outcome


class _Matching:
    """Transactions in slots; `add` moves others along where that makes room."""

    def __init__(self, first: Integers, last: Integers) -> None:
        self._first, self._last = first, last
        self._taken: dict[int, int] = {}

    def add(self, job: int) -> bool:
        """Give a job a slot, if there is a way; breadth first over the slots that can be freed."""
        came_from: dict[int, tuple[int, int | None]] = {}
        waiting: list[tuple[int, int | None]] = [(job, None)]
        for who, via in waiting:
            for slot in range(int(self._first[who]), int(self._last[who]) + 1):
                if slot in came_from:
                    continue
                came_from[slot] = (who, via)
                if slot not in self._taken:
                    self._move(slot, came_from)
                    return True
                waiting.append((self._taken[slot], slot))
        return False

    def _move(self, slot: int | None, came_from: dict[int, tuple[int, int | None]]) -> None:
        while slot is not None:
            who, via = came_from[slot]
            self._taken[slot] = who
            slot = via


def _row(seed: int, live: Live, analysts: float) -> Row:
    costs = CostModel()
    queue = simulate_queue(live, analysts, seed)
    threshold = costs.best_threshold(live.score, live.fraud, live.amount)
    single = np.where(live.score >= threshold, DECLINE, APPROVE)
    cost, known, one, none = (
        costs.costs(outcome, live.fraud, live.amount) / 100 / DAYS
        for outcome in (
            queue.outcome, known_day(live, analysts), single, np.zeros_like(single)
        )
    )  # fmt: skip
    return Row(
        seed=seed,
        analysts=analysts,
        reviewed=len(queue.waits),
        within=float((queue.waits <= _BOUND_S).mean()) if len(queue.waits) else 1.0,
        wait_p95_min=float(np.percentile(queue.waits, 95)) / 60 if len(queue.waits) else 0.0,
        slot_eur=queue.price / 100,
        cost=float(cost.sum()),
        cost_known_day=float(known.sum()),
        cost_one_threshold=float(one.sum()),
        cost_approve_all=float(none.sum()),
        excess=float(cost.sum() / known.sum() - 1),
        against_threshold=float((cost - one).sum()),
        upper=_upper_bound(cost - one, live.customer, seed),
        ece=calibration_error(live.score, live.fraud),
    )


def _upper_bound(difference: Floats, unit: Integers, seed: int) -> float:
    """Upper 95 % bound of a summed difference, resampling customers."""
    by_unit = np.bincount(np.unique(unit, return_inverse=True)[1], difference)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(BOOTSTRAP_DRAWS):
        draws.append(by_unit[rng.integers(0, len(by_unit), len(by_unit))].sum())
    return float(np.quantile(draws, 0.95))


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """What missed its target, a clause each."""
    for row in rows:
        where = f"seed {row.seed}, {row.analysts:g} analysts"
        if row.within < 0.99:
            yield f"{where}: {row.within:.1%} of reviews began within the bound"
        if row.excess > 0.03:
            yield f"{where}: cost {row.excess:.1%} over the allocation that knows the day"
        # Without analysts the policy only knows amounts.
        if row.analysts and not row.upper < 0:
            yield f"{where}: not surely less than one threshold costs (bound {row.upper:+,.0f} EUR)"


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as a JSON-serialisable dictionary."""
    return {"days": DAYS, "rows": [asdict(row) for row in rows], "missed": list(failures(rows))}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot cost by number of analysts, the mean over seeds with the range."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    counts = sorted({row.analysts for row in rows})
    names = {
        "cost": "policy with the queue's price",
        "cost_known_day": "knows the day in advance",
        "cost_one_threshold": "best single threshold",
    }
    for field, label in names.items():
        by_count = [[getattr(r, field) for r in rows if r.analysts == n] for n in counts]
        means = [float(np.mean(of)) for of in by_count]
        axes.plot(counts, means, marker="o", label=label)
        axes.fill_between(
            counts, [min(c) for c in by_count], [max(c) for c in by_count], alpha=0.15
        )
    axes.set(xlabel="analysts", ylabel="EUR a day", ylim=(0, None), title="Cost against analysts")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
