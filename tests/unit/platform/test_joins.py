"""Joins with a table that is read in parts: the same as with all of it in memory."""

import numpy as np
import pyarrow as pa
import pytest

from services.platform.storage import joins
from services.platform.storage.joins import LastBefore, first_matches


def test_the_first_row_with_an_id_counts_in_whatever_part_it_is():
    ids = pa.chunked_array([["b", "x", "a"], ["b"]])
    parts = [pa.table({"id": ["c", "b"], "n": [1, 2]}), pa.table({"id": ["b", "a"], "n": [3, 4]})]
    found = np.zeros(4, dtype=int)
    for at, rows in first_matches(ids, parts, "id"):
        found[at] = rows["n"].to_numpy()
    assert found.tolist() == [2, 0, 4, 2]


def keys_and_moments(rng, count):
    first = pa.chunked_array([rng.choice(["a", "b", "c", None], count)])
    second = pa.chunked_array([rng.choice(["x", "y"], count)])
    return [first, second], rng.permutation(10 * count)[:count]


def by_hand(rows, moments, log, log_moments):
    """For each row the number of the newest state of its keys before it, -1 for none."""
    found = []
    for *key, moment in zip(*(k.to_pylist() for k in rows), moments, strict=True):
        before = [
            (at, n)
            for n, (*of, at) in enumerate(
                zip(*(k.to_pylist() for k in log), log_moments, strict=True)
            )
            if of == key and at < moment and None not in key
        ]
        found.append(max(before)[1] if before else -1)
    return found


@pytest.mark.parametrize("batch", [1, 7, 300])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_state_before_each_row_in_one_pass(monkeypatch, seed, batch):
    monkeypatch.setattr(joins, "_MIN_HELD", 10)
    rng = np.random.default_rng(seed)
    rows, moments = keys_and_moments(rng, 60)
    log, log_moments = keys_and_moments(rng, 300)
    wanted, held = LastBefore(rows, moments), 0
    order = rng.permutation(300)
    for begin in range(0, 300, batch):
        part = order[begin : begin + batch]
        states = pa.table({"state": pa.array([[float(n)] for n in part])})
        wanted.add([k.take(pa.array(part)) for k in log], log_moments[part], states)
        held = max(held, sum(map(len, wanted._held)))
    states, number = wanted.found(pa.table({"state": pa.array([], pa.list_(pa.float64()))}))
    picked = states.take(pa.array(number, mask=number < 0))["state"].to_pylist()
    expected = by_hand(rows, moments, log, log_moments)
    assert [-1 if p is None else int(p[0]) for p in picked] == expected
    assert max(expected) >= 0 > min(expected)
    assert held <= 2 * 60
    assert len(states) <= 60


def test_rows_without_any_key_and_an_empty_log_need_nothing():
    nothing = pa.chunked_array([pa.array([None, None], pa.string())])
    none = pa.table({"state": pa.array([], pa.list_(pa.float64()))})
    wanted = LastBefore([nothing], np.array([5, 6]))
    state = pa.table({"state": pa.array([[1.0]])})
    wanted.add([pa.chunked_array([["a"]])], np.array([1]), state)
    assert wanted.found(none)[1].tolist() == [-1, -1]
    assert LastBefore([pa.chunked_array([["a"]])], np.array([5])).found(none)[1].tolist() == [-1]
