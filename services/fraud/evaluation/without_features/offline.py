"""What an hour without the online store costs, in memory: with a warm cache of rows and a cold one.

Sixty days are simulated. The champion and its fallback are trained on the first six weeks; in the
last two, every third hour is an outage. The scorer then knows the rows that it read before: what a
request read, so without the request's own event, and frozen while the outage lasts. The same
transactions with their features are the ordinary hour. Kernel, features, training and costs are the
real ones; there are no rules. Fraud is the simulator's truth.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.aggregation import identify
from features.spec import DAY, HOUR
from services.fraud.candidates.fallback import Fallback
from services.fraud.evaluation.simulated_data import midnight, rows_before, tables, tabular
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.request import cart_sets, request_columns
from services.fraud.features.states import STATES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import ENTITIES
from services.fraud.problem import APPROVE, CONF, CostModel
from services.fraud.retraining.training import new_candidate
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.traffic import Traffic
from services.platform.evaluation.metrics import calibration_error
from services.platform.models.candidates import Candidate, Examples
from services.platform.progress import ProgressBar
from services.platform.retraining.training import hyperparameters
from services.platform.types import Booleans, Floats, Floats32, Integers

DAYS, FIT_UNTIL, VALID_UNTIL, TEST_FROM = 60, 37, 44, 46
EVERY_HOURS = 3
# How long the scorer had been reading when the outage began, hours; 0: it started in it.
WARM = "fallback_day_of_rows"
_READING_HOURS = {
    "fallback_week_of_rows": 168.0,
    WARM: 24.0,
    "fallback_hour_of_rows": 1.0,
    "fallback_no_rows": 0.0,
}
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Case:
    """What deciding all outages one way costs.

    Attributes:
        eur_per_hour: Without analysts, EUR an hour.
        ratio: That over the ordinary hour's.
        low: Lower end of the ratio's 95 % interval, by a bootstrap of the hours.
        high: Upper end.
        eur_per_hour_reviewed: With analysts of unlimited capacity.
        ratio_reviewed: That over the ordinary hour's with as many.
        precision: Of what is stopped, the share of frauds.
        recall: Of the frauds, the share that is stopped.
        calibration_error: Expected calibration error.
    """

    eur_per_hour: float
    ratio: float
    low: float
    high: float
    eur_per_hour_reviewed: float
    ratio_reviewed: float
    precision: float
    recall: float
    calibration_error: float


@dataclass(frozen=True)
class Outages:
    """The result: how many hours and transactions, and the cases by name, the ordinary one first.

    Attributes:
        seed: Of the simulation and of the training.
        hours: Number of outages, an hour each.
        transactions: In them.
        frauds: In them.
        cases: By name.
    """

    seed: int
    hours: int
    transactions: int
    frauds: int
    cases: Mapping[str, Case]

    def as_json(self) -> dict[str, Any]:
        """As a JSON-serialisable dictionary."""
        return asdict(self)


class _OutageData:
    """N simulated transactions with the rows that a scorer reads for each."""

    def __init__(self, seed: int, bar: ProgressBar) -> None:
        with bar("simulating two months") as step:
            history = simulate_days(Traffic(seed, ()), DAYS, step)
        self.transactions, labels = tables(history)
        with bar("computing features"):
            self.rows = rows_before(self.transactions, labels)
            self.request = request_columns(self.transactions)
            self.vectors = tabular(self.rows, self.request)
        self.time = event_times(self.transactions)
        self.fraud: Booleans = np.concatenate([day.scenario > 0 for day in history.days])
        self.amount = np.concatenate([d.amount for d in history.days]).astype(np.float64)
        keys = {e: self.transactions[e].to_numpy(zero_copy_only=False) for e in ENTITIES}
        self.codes = {state.name: identify(state, keys)[0] for state in STATES}

    def examples(self, chosen: Booleans | Integers) -> Examples:
        """Some transactions, with their carts."""
        mask = np.zeros(len(self.time), bool)
        mask[chosen] = True
        items: Floats32 = cart_sets(self.transactions.filter(pa.array(mask)))
        return Examples(self.vectors[mask], self.fraud[mask], self.amount[mask], {"items": items})

    def days(self, first: int, last: int) -> Booleans:
        """(N,) whether a transaction is on day `first` or later, and before day `last`."""
        return (self.time >= midnight(first) / 1e6) & (self.time < midnight(last) / 1e6)


def run(seed: int, bar: ProgressBar) -> Outages:
    """Train both models and decide every outage with and without the online store.

    Args:
        seed: Of the simulation and of the training.
        bar: Opens a progress bar with a title.
    """
    data = _OutageData(seed, bar)
    champion, fallback = _train(data, seed, bar)
    begins = midnight(TEST_FROM) / 1e6 + np.arange(
        0.0, (DAYS - TEST_FROM) * DAY, EVERY_HOURS * HOUR
    )
    spans = [np.searchsorted(data.time, (begin, begin + HOUR)) for begin in begins]
    chosen = np.concatenate([np.arange(*span) for span in spans])
    hour = np.repeat(np.arange(len(spans)), [last - first for first, last in spans])
    examples = data.examples(chosen)
    with bar("deciding the outages"):
        scores = {"ordinary": champion.score(examples)}
        for name, hours in _READING_HOURS.items():
            vectors = known_vectors(data, begins, spans, hours * HOUR)
            scores[name] = fallback.score(_with(examples, vectors))
        # The last vectors are those without any row.
        scores["champion_no_rows"] = champion.score(_with(examples, vectors))
        scores["approve_all"] = np.zeros(len(examples))
    cases = _cases(scores, examples, hour, seed)
    return Outages(seed, len(spans), len(examples), int(examples.positive.sum()), cases)


def _train(data: _OutageData, seed: int, bar: ProgressBar) -> tuple[Candidate, Fallback]:
    train = data.examples(data.days(WARM_UP_DAYS, FIT_UNTIL))
    valid = data.examples(data.days(FIT_UNTIL, VALID_UNTIL))
    champion = new_candidate("xgboost")
    fallback = Fallback(hyperparameters(CONF, Fallback.name), TABULAR)
    with bar("training the champion") as step:
        champion.fit(train, valid, seed, step)
    with bar("training the fallback") as step:
        fallback.fit(train, valid, seed, step)
    return champion, fallback


def _with(examples: Examples, vectors: Floats) -> Examples:
    return Examples(vectors, examples.positive, examples.amount, examples.sets)


def known_vectors(
    data: _OutageData, begins: Floats, spans: list[Integers], reading_s: float
) -> Floats:
    """(M, len(TABULAR)) vectors of the outages' M transactions, by the rows that were read before.

    Args:
        begins: (H,) when each outage begins, seconds.
        spans: For each, its first transaction and the one behind its last.
        reading_s: How long the scorer had been reading before, seconds.
    """
    parts = []
    for begin, (first, last) in zip(begins, spans, strict=True):
        since = int(np.searchsorted(data.time, begin - reading_s))
        rows = {}
        for name, of in data.rows.items():
            read = last_read(data.codes[name], since, int(first), int(last))
            rows[name] = np.where((read < 0)[:, None], np.nan, of[read])
        parts.append(tabular(rows, data.request[first:last]))
    return np.concatenate(parts)


def last_read(codes: Integers, since: int, first: int, last: int) -> Integers:
    """For the transactions `first` to `last`, which earlier one read the same entity's row last.

    Args:
        codes: (N,) number of each transaction's entity, -1 for none.
        since: First transaction that counts.

    Returns:
        (last - first,) positions, -1 where there is none.

    >>> last_read(np.array([7, 3, 7, 7, 3, 5]), 1, 3, 6).tolist()
    [2, 1, -1]
    """
    found = np.full(int(codes.max()) + 2, -1)
    found[codes[since:first]] = np.arange(since, first)
    found[-1] = -1  # where the code is -1
    return found[codes[first:last]]


def _cases(
    scores: Mapping[str, Floats], examples: Examples, hour: Integers, seed: int
) -> dict[str, Case]:
    hours = int(hour.max()) + 1
    resampled = np.random.default_rng(seed).integers(0, hours, (_RESAMPLES, hours))
    ordinary: dict[float, Floats] = {}
    found = {}
    for name, score in scores.items():
        paid = {slot: _hourly(score, slot, examples, hour) for slot in (float("inf"), 0.0)}
        ordinary = ordinary or paid
        alone, usual = paid[float("inf")], ordinary[float("inf")]
        ratios = alone[resampled].sum(axis=1) / usual[resampled].sum(axis=1)
        low, high = np.quantile(ratios, (0.025, 0.975))
        stopped = CostModel().outcomes(score, 0.0, examples.amount) != APPROVE
        hits = int((stopped & examples.positive).sum())
        found[name] = Case(
            eur_per_hour=float(alone.mean()),
            ratio=float(alone.sum() / usual.sum()),
            low=float(low),
            high=float(high),
            eur_per_hour_reviewed=float(paid[0.0].mean()),
            ratio_reviewed=float(paid[0.0].sum() / ordinary[0.0].sum()),
            precision=hits / max(int(stopped.sum()), 1),
            recall=hits / max(int(examples.positive.sum()), 1),
            calibration_error=calibration_error(score, examples.positive),
        )
    return found


def _hourly(score: Floats, slot: float, examples: Examples, hour: Integers) -> Floats:
    """(H,) EUR of each hour, with a price of a review slot."""
    costs = CostModel(slot=slot)
    outcome = costs.outcomes(score, 0.0, examples.amount)
    return np.array(
        [
            costs.total(outcome[of], examples.positive[of], examples.amount[of]) / 100
            for of in (hour == number for number in range(int(hour.max()) + 1))
        ]
    )
