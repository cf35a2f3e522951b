"""States that tell attempts from purchases: the variants, a day's decisions, and the savings."""

from types import SimpleNamespace

import numpy as np
import pytest

from features.aggregation import RowTable, fold_rows
from features.reading import FeatureReader
from services.fraud.evaluation.attempts.decider import Decider
from services.fraud.evaluation.attempts.stream import DecidedEvents, SimulatedStream
from services.fraud.evaluation.attempts.study import Study, System
from services.fraud.evaluation.attempts.variants import VARIANTS
from services.fraud.evaluation.simulated_data import SimulatedData
from services.fraud.features.states import TABULAR
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import ENTITIES
from services.fraud.problem import CostModel
from services.fraud.review.control import propensity
from tests.identical import assert_identical

COUNT = 120
BOTH = VARIANTS["both"]
BEGIN = 1.65e9


class Stream:
    """A day of few parties: transactions every ten minutes, each with a label an hour later."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.amount = random.lognormal(9.0, 1.0, COUNT).round()
        self.fraud = random.random(COUNT) < 0.3
        self.day = np.zeros(COUNT, dtype=int)
        time = BEGIN + 600.0 * np.arange(COUNT)
        self.request = np.column_stack([time, self.amount / 100, np.full((COUNT, 2), np.nan)])
        order = np.argsort(np.concatenate([time, time + 3_601.0]), kind="stable")
        self.transaction = order % COUNT
        is_transaction = order < COUNT
        keys = {
            entity: np.array([f"{entity}{n}" for n in random.integers(0, 4, COUNT)], dtype=object)
            for entity in ENTITIES
        }
        keys["device_id"][::7] = None
        self.events = Events(
            np.arange(1, 2 * COUNT + 1),
            np.concatenate([time, time + 3_601.0])[order],
            is_transaction,
            np.where(is_transaction, self.amount[self.transaction] / 100, 0.0),
            ~is_transaction & self.fraud[self.transaction],
            {entity: of[self.transaction] for entity, of in keys.items()},
        )

    def of_day(self, day: int):
        return self.events, self.transaction

    def event(self, at: int) -> Events:
        part = slice(at, at + 1)
        columns = {n: v[part] for n, v in vars(self.events).items() if isinstance(v, np.ndarray)}
        return Events(**columns, keys={e: of[part] for e, of in self.events.keys.items()})


class Alternating:
    """Declines while few attempts of the merchant, and of the customer, were declined."""

    columns = BOTH.columns(("merchant_declines_1d", "customer_declines_1d"))

    def score(self, examples):
        few = examples.vectors[:, self.columns] < (4.0, 3.0)
        return np.where(few.all(axis=1), 0.99, 0.0)


def one_after_another(stream, model, drawn, share):
    """A scorer that decides each transaction by states with all events before it."""
    reader, tables = FeatureReader(BOTH), {s.name: RowTable(s) for s in BOTH.states}
    declined, vectors = np.zeros(COUNT, dtype=bool), np.zeros((COUNT, len(BOTH.tabular)))
    controls, without_label = 0, set()
    for at, number in enumerate(stream.transaction):
        event = stream.event(at)
        if event.is_transaction[0]:
            probe = DecidedEvents(event, np.ones(1, dtype=bool))
            rows = fold_rows(BOTH.states, tables, probe, np.zeros(1, dtype=int), keep=False)
            vectors[number] = reader.vectors(rows, stream.request[[number]])[0]
            seen = SimpleNamespace(vectors=vectors[[number]].astype(np.float32))
            amount = stream.amount[[number]]
            if CostModel().outcomes(model.score(seen), 0.0, amount)[0]:
                control = bool(drawn[number] < propensity(amount, share)[0])
                controls += control
                declined[number] = not control
                without_label |= set() if control else {number}
        if event.is_transaction[0] or number not in without_label:
            fold_rows(BOTH.states, tables, DecidedEvents(event, ~declined[[number]]))
    return declined, vectors, controls


def test_a_day_is_decided_as_by_a_scorer_that_decides_one_transaction_after_another():
    stream, drawn = Stream(), np.random.default_rng(4).random(COUNT)
    decider = Decider(BOTH, stream, drawn, 0.3, 0)
    decider.decide(0, Alternating())
    declined, vectors, controls = one_after_another(stream, Alternating(), drawn, 0.3)
    assert 10 < declined.sum() < COUNT - 10
    assert controls
    assert (decider.declined == declined).all()
    assert_identical(decider.vectors, vectors.astype(np.float32))


def test_of_attempts_the_vectors_are_the_products():
    stream = SimulatedStream(5, 2, lambda *_: None)
    decider = Decider(VARIANTS["attempts"], stream, np.ones(len(stream.fraud)), 0.0, 0)
    assert list(decider.run(2)) == [0, 1]
    assert VARIANTS["attempts"].tabular == TABULAR
    assert_identical(decider.vectors, SimulatedData(5, 2).vectors.astype(np.float32))


def test_spending_and_pairs_are_of_purchases_and_declines_are_counted():
    stream = Stream()
    declined = np.arange(COUNT) % 3 == 0
    tables = {s.name: RowTable(s) for s in BOTH.states}
    events = DecidedEvents(stream.events, ~declined[stream.transaction])
    seen = stream.events.is_transaction
    rows = fold_rows(BOTH.states, tables, events, np.where(seen, np.cumsum(seen) - 1, -1))
    vectors = FeatureReader(BOTH).vectors(rows, stream.request)
    found = dict(zip(BOTH.tabular, vectors[-1], strict=True))
    keys = {entity: of[seen] for entity, of in stream.events.keys.items()}
    weight = 0.5 ** ((stream.request[-1, 0] - stream.request[:-1, 0]) / 86_400.0)

    def mine(*entities: str):
        return np.all([keys[e][:-1] == keys[e][-1] for e in entities], axis=0)

    bought = mine("customer_id") & ~declined[:-1]
    amount = stream.request[:-1, 1]
    mean = (weight * amount)[bought].sum() / weight[bought].sum()
    assert found["customer_mean_amount_1d"] == pytest.approx(mean, rel=1e-9)
    assert found["customer_transactions_1d"] == pytest.approx(weight[mine("customer_id")].sum())
    lost = mine("merchant_id") & declined[:-1]
    assert found["merchant_declines_1d"] == pytest.approx(weight[lost].sum())
    assert lost.any()
    assert bought.any()

    is_new = vectors[:, BOTH.columns(("customer_device_is_new",))[0]]
    pairs = list(zip(keys["customer_id"], keys["device_id"], strict=True))
    for number, pair in enumerate(pairs):
        before = any(p == pair and not declined[n] for n, p in enumerate(pairs[:number]))
        expected = np.nan if pair[1] is None else float(not before)
        assert is_new[number] == pytest.approx(expected, nan_ok=True)


def test_the_saving_is_paired_by_day_and_counts_the_last_days_of_each_seed():
    cost = np.array([10.0, 20.0, 30.0, 100.0, 200.0, 300.0])
    saved = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 9.0])
    systems = {
        "attempts": System(cost, cost, cost),
        "purchases": System(cost - saved, cost, cost),
    }
    found = Study((0, 1), 3, systems)
    every, last = found.saving("purchases"), found.saving("purchases", 1)
    assert (every.mean, last.mean) == (3.0, 6.0)
    assert every.low < 3.0 < every.high
    assert found.as_json()["systems"]["purchases"]["saving"]["mean"] == 3.0
