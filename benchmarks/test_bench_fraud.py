"""Micro-benchmarks of the fraud design's kernels and rules: `make bench`. Not among the tests.

The column OPS has rounds a second; the rates in events a second are printed.
"""

import os

import numpy as np
import pytest

from features.aggregation import backfill
from features.online.layout import RowLayout
from features.spec import HALF_LIVES
from services.fraud.evaluation.simulated_data import tables, tabular_vectors
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_features
from services.fraud.features.states import FEATURES, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import Transaction
from services.fraud.rules.evaluation import CompiledRules
from services.fraud.rules.files import shipped_rules
from services.fraud.rules.logged import texts_of, times_us
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.population import Population
from services.fraud.simulator.tables import label_table, transaction, transaction_table
from services.fraud.simulator.traffic import Traffic, _day

DAYS = 20


@pytest.fixture(scope="module")
def day():
    return Traffic(7).day(3)


@pytest.fixture(scope="module")
def events():
    import pyarrow as pa

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    made = simulate_days(Traffic(7), DAYS, lambda *_: None)
    pairs = list(zip(made.days, made.seqs, strict=True))
    transactions = pa.concat_tables([transaction_table(d, s) for d, (s, _) in pairs])
    labels = pa.concat_tables(
        [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
    )
    return Events.from_tables(transactions, labels)


def test_backfill_events_per_second_on_one_core(benchmark, events):
    """All five states, from columns to final rows, including the mapping of entities to rows."""
    done = benchmark.pedantic(backfill, (STATES, events), rounds=5, warmup_rounds=1)
    assert done["customer_state"].table[:, 0].max() == len(events)
    benchmark.extra_info["events"] = len(events)
    benchmark.extra_info["events_per_s"] = round(len(events) / benchmark.stats.stats.median)
    print(f"\n{len(events):,} events: {benchmark.extra_info['events_per_s']:,} events/s (median)")


def test_simulated_transactions_per_second(benchmark):
    population = Population.draw(7)
    assert len(population.weight)
    traffic = Traffic(7)

    def make():
        _day.cache_clear()
        return sum(len(d) for d in traffic.days(0, 5))

    count = benchmark.pedantic(make, rounds=5, warmup_rounds=1)
    rate = round(count / benchmark.stats.stats.median)
    print(f"\n{count:,} transactions: {rate:,} transactions/s (median)")


def test_one_request_reads_its_features(benchmark, day):
    rows = {s.name: np.ones((1, s.width)) for s in STATES}
    own = np.array([request_features(transaction(day, 0))])
    found = benchmark(feature_vectors, rows, own)
    assert found.shape == (1, len(FEATURES))
    assert len(HALF_LIVES) == 4


def test_one_request_is_validated(benchmark, day):
    body = transaction(day, 0).model_dump_json().encode()
    assert benchmark(Transaction.model_validate_json, body)


def test_one_request_decodes_its_rows(benchmark):
    """The reader: rows of five states from Redis' replies to arrays."""
    layouts = [RowLayout.of(state) for state in STATES]
    raws = [layout.values(np.ones((1, layout.view.width)))[0] for layout in layouts]

    def decode():
        return [layout.decode((raw,)) for layout, raw in zip(layouts, raws, strict=True)]

    assert [row.shape[1] for row in benchmark(decode)] == [state.width for state in STATES]


def test_a_thousand_rows_are_encoded(benchmark):
    """The writer: rows of a state to Redis commands, event times included."""
    layout = RowLayout.of(STATES[0])
    addresses = [layout.key((f"c{n}",) * len(STATES[0].keys)) for n in range(1_000)]
    rows = np.ones((1_000, STATES[0].width))
    assert len(benchmark(layout.write_commands, addresses, rows)) == 1_000


@pytest.fixture(scope="module")
def fifty():
    """The 15 shipped rules, and copies of them that observe."""
    shipped = shipped_rules()
    rules = list(shipped.rule_set.rules)
    copies = (
        rule.model_copy(update={"id": f"{rule.id}-{n}", "action": "observe"})
        for n in range(3)
        for rule in shipped.rule_set.rules
    )
    rules += list(copies)[: 50 - len(rules)]
    made = shipped.rule_set.model_copy(update={"rules": tuple(rules)})
    return CompiledRules(made, 1, shipped.values)


def test_fifty_rules_on_a_million_transactions(benchmark, fifty):
    """As the back-test runs them: simulated transactions, repeated; scores are drawn."""
    transactions, labels = tables(simulate_days(Traffic(7), DAYS, lambda *_: None))
    repeats = -(-1_000_000 // len(transactions))
    vectors = np.tile(tabular_vectors(transactions, labels), (repeats, 1))[:1_000_000]
    texts = {name: (of * repeats)[:1_000_000] for name, of in texts_of(transactions).items()}
    time = np.tile(times_us(transactions), repeats)[:1_000_000]
    scores = np.random.default_rng(0).beta(0.2, 8.0, len(vectors))
    fired = benchmark.pedantic(fifty.fired_matrix, (vectors, scores, texts, time), rounds=3)
    assert fired.shape == (1_000_000, 50)
    assert fired.any()
    print(f"\n50 rules, a million transactions: {benchmark.stats.stats.median:.1f} s (median)")


def test_fifty_rules_on_one_transaction(benchmark, day, fifty):
    one, vector = transaction(day, 0), np.ones(len(FEATURES))
    assert isinstance(benchmark(fifty.fired, one, vector, 0.01), list)


def test_fifty_rules_without_guards(benchmark, fifty):
    """CEL alone, on probes; microseconds a transaction are printed."""
    took_us = benchmark.pedantic(fifty.check, rounds=3)
    print(f"\n50 rules, no guard rules one out: {took_us:.1f} us a transaction")
    assert took_us > 0
