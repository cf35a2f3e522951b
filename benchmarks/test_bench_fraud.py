"""Micro-benchmarks of the fraud design's kernels: `make bench`. Never part of the test suite.

Rates are in the column OPS: multiply by the events of a round, printed in each name.
"""

import os

import numpy as np
import pytest

from features.aggregation import backfill
from features.online import Layout
from features.spec import HALF_LIVES
from services.fraud.features.backfill import simulate
from services.fraud.features.states import FEATURES, STATES, contributions, own_columns, vectors
from services.fraud.ingestion.events import Events, Transaction
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
    made = simulate(Traffic(7), DAYS, lambda *_: None)
    pairs = list(zip(made.days, made.seqs, strict=True))
    transactions = pa.concat_tables([transaction_table(d, s) for d, (s, _) in pairs])
    labels = pa.concat_tables(
        [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
    )
    return Events.from_tables(transactions, labels)


def test_backfill_events_per_second_on_one_core(benchmark, events):
    """All five states, from columns to final rows, entities identified included."""
    done = benchmark.pedantic(backfill, (STATES, events, contributions), rounds=5, warmup_rounds=1)
    assert done["customer_state"].table[:, 0].max() == len(events)
    benchmark.extra_info["events"] = len(events)
    benchmark.extra_info["events_per_s"] = round(len(events) / benchmark.stats.stats.median)
    print(f"\n{len(events):,} events: {benchmark.extra_info['events_per_s']:,} events/s (median)")


def test_simulated_transactions_per_second(benchmark):
    population = Population.of(7)
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
    own = np.array([own_columns(transaction(day, 0))])
    found = benchmark(vectors, rows, own)
    assert found.shape == (1, len(FEATURES))
    assert len(HALF_LIVES) == 4


def test_one_request_is_validated(benchmark, day):
    body = transaction(day, 0).model_dump_json().encode()
    assert benchmark(Transaction.model_validate_json, body)


def test_one_request_decodes_its_rows(benchmark):
    """The reader: five states' rows as Redis answers them, to arrays."""
    layouts = [Layout.of(state) for state in STATES]
    raws = [layout.value(np.ones(layout.state.width)) for layout in layouts]

    def decode():
        return [layout.decode((raw,)) for layout, raw in zip(layouts, raws, strict=True)]

    assert [row.shape[1] for row in benchmark(decode)] == [state.width for state in STATES]


def test_a_thousand_rows_are_encoded(benchmark):
    """The writer: what Redis is told to keep of a state's rows, times included."""
    layout = Layout.of(STATES[0])
    addresses = [layout.key((f"c{n}",) * len(STATES[0].keys)) for n in range(1_000)]
    rows = np.ones((1_000, STATES[0].width))
    assert len(benchmark(layout.writes, addresses, rows)) == 1_000
