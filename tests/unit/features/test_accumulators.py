"""The kernel: exact sums, independent of batching, idempotent under redelivery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.accumulators import decay, fold
from features.spec import (
    DAY,
    FIRST_SEQ,
    HALF_LIVES,
    LAST_SEEN,
    SEQ,
    SUMS,
    TIME,
    Measure,
    State,
)
from tests.identical import assert_identical

MEASURES = (Measure("count", "", "transaction"), Measure("value", "", "amount"))
STATE = State("s", ("k",), MEASURES, shard="k")
T0 = 1.6e9

events = st.lists(
    st.tuples(
        st.floats(0, 90 * DAY),
        st.floats(0, 1e4),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


def run(table, rows, seqs, times, is_transaction, values, snapshot=True):
    n = len(rows)
    snapshot_index = np.arange(n) if snapshot else np.full(n, -1)
    before = np.empty((n if snapshot else 0, STATE.width))
    first = np.zeros(n, dtype=bool)
    fold(table, rows, seqs, times, is_transaction, values, snapshot_index, before, first)
    return before, first


def columns(drawn):
    times = np.array([T0 + d[0] for d in drawn])
    values = np.array([[1.0, d[1]] for d in drawn])
    rows = np.array([d[2] for d in drawn])
    is_transaction = np.array([d[3] for d in drawn])
    return rows, np.arange(1, len(drawn) + 1), times, is_transaction, values


@given(events)
def test_sums_equal_the_closed_form_for_events_in_any_order_of_time(drawn):
    rows, seqs, times, is_transaction, values = columns(drawn)
    table = np.zeros((4, STATE.width))
    run(table, rows, seqs, times, is_transaction, values)
    end = times.max() + DAY
    for key in range(4):
        mine = rows == key
        for m, measure in enumerate(STATE.measures):
            for name, half_life in HALF_LIVES.items():
                expected = (values[mine, m] * 2.0 ** (-(end - times[mine]) / half_life)).sum()
                stored = table[key, STATE.column(measure.name, name)]
                found = stored * decay(table[key], half_life, end)
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(events, st.integers(1, 59))
def test_folding_in_batches_gives_the_same_bytes(drawn, cut):
    rows, seqs, times, is_transaction, values = columns(drawn)
    whole, split = np.zeros((4, STATE.width)), np.zeros((4, STATE.width))
    run(whole, rows, seqs, times, is_transaction, values)
    for part in (slice(0, cut), slice(cut, None)):
        run(split, rows[part], seqs[part], times[part], is_transaction[part], values[part])
    assert_identical(whole, split)


@given(events, st.integers(0, 59), st.integers(0, 59))
def test_redelivery_changes_nothing(drawn, begin, end):
    rows, seqs, times, is_transaction, values = columns(drawn)
    table = np.zeros((4, STATE.width))
    _, first = run(table, rows, seqs, times, is_transaction, values)
    kept = table.copy()
    again = slice(min(begin, end), max(begin, end) + 1)
    _, first_again = run(
        table, rows[again], seqs[again], times[again], is_transaction[again], values[again]
    )
    assert_identical(table, kept)
    assert first_again.tolist() == first[again].tolist()


def test_a_probe_reads_and_changes_nothing():
    table = np.zeros((1, STATE.width))
    one = np.ones(1, dtype=bool)
    zero = np.zeros(1, dtype=np.int64)
    run(table, zero, np.array([5]), np.array([T0]), one, np.array([[1.0, 2.0]]))
    kept = table.copy()
    before, first = run(table, zero, zero, np.array([T0 + 9]), ~one, np.zeros((1, 2)))
    assert before[0].tobytes() == kept[0].tobytes() == table[0].tobytes()
    assert not first[0]


def test_a_label_is_not_a_first_transaction_and_a_null_key_is_nan():
    table = np.zeros((1, STATE.width))
    rows = np.array([0, -1, 0])
    is_transaction = np.array([False, True, True])
    times = np.array([T0, T0 + 1, T0 + 2])
    values = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    before, first = run(table, rows, np.array([1, 2, 3]), times, is_transaction, values)
    assert first.tolist() == [False, False, True]
    assert np.isnan(before[1]).all()
    assert before[2, LAST_SEEN] == before[2, FIRST_SEQ] == 0.0
    assert table[0, [SEQ, TIME, LAST_SEEN, FIRST_SEQ]].tolist() == [3, T0 + 2, T0 + 2, 3]


def test_a_request_before_the_states_time_reads_the_stored_sum():
    row = np.zeros(STATE.width)
    row[TIME], row[SUMS] = T0, 4.0
    assert row[SUMS] * decay(row, HALF_LIVES["1h"], T0 - 100.0) == 4.0
    assert row[SUMS] * decay(row, HALF_LIVES["1h"], T0 + HALF_LIVES["1h"]) == 2.0
