"""The skew audit reads ranges of the lake: the same result as all of it in memory."""

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    TRANSACTIONS_TABLE,
)
from services.fraud.monitoring import skew
from services.fraud.monitoring.skew import audit
from services.fraud.monitoring.skew_rows import logged_seqs, newest_seq
from services.platform.storage.lake import Lake
from tests.integration.fraud.test_audit import logged


@pytest.fixture
def lake(config, simulated, monkeypatch):
    monkeypatch.setattr(skew, "_EVENTS", 40_000)
    monkeypatch.setattr(skew, "_DECISIONS", 200)
    monkeypatch.setattr(skew, "_RETRY_S", 0.0)
    lake = Lake(config)
    lake.remove(["fraud"])
    lake.write(TRANSACTIONS_TABLE, simulated.transactions, "history-00001")
    lake.write(LABELS_TABLE, simulated.labels, "history-00001", partition=False)
    yield lake
    lake.remove(["fraud"])


def write(lake, decisions, order=None):
    """Write decisions in an order of their own stream."""
    count = len(decisions)
    chosen = decisions if order is None else decisions.take(pa.array(order))
    seq = pa.array(np.arange(1, count + 1))
    chosen = chosen.set_column(chosen.column_names.index("seq"), "seq", seq)
    nulls = {f.name: pa.nulls(count, f.type) for f in DECISION_SCHEMA
             if f.name not in chosen.column_names}  # fmt: skip
    columns = {name: chosen[name] for name in chosen.column_names} | nulls
    rows = pa.table(columns).select(DECISION_SCHEMA.names).cast(DECISION_SCHEMA)
    lake.write(DECISIONS_TABLE, rows, f"lake-decisions-{1:012d}-{count:012d}")


def test_every_decision_is_compared_once(lake, simulated):
    write(lake, logged(simulated, 500))
    found = audit(lake)
    assert (found.vectors, found.mismatches, found.gaps) == (500, 0, 0)
    assert found.events == len(simulated.events)


def test_decisions_that_are_written_before_their_events_wait_for_them(lake, simulated, monkeypatch):
    half = int(simulated.events.seq[len(simulated.events) // 2])

    def part(rows, is_early):
        seq = rows["seq"].to_numpy()
        return rows.filter(pa.array(seq <= half if is_early else seq > half))

    def arrive(seconds):
        lake.write(TRANSACTIONS_TABLE, part(simulated.transactions, False), "history-00002")
        lake.write(LABELS_TABLE, part(simulated.labels, False), "history-00002", partition=False)

    lake.remove(["fraud"])
    lake.write(TRANSACTIONS_TABLE, part(simulated.transactions, True), "history-00001")
    lake.write(LABELS_TABLE, part(simulated.labels, True), "history-00001", partition=False)
    write(lake, logged(simulated, 500))
    monkeypatch.setattr(skew, "sleep", arrive)
    found = audit(lake)
    assert (found.vectors, found.mismatches, found.gaps) == (500, 0, 0)
    assert found.events == len(simulated.events)


def test_a_label_as_the_last_event_is_folded(lake, simulated):
    """As in a home that takes a load test right after its history: no transaction follows."""
    decisions = logged(simulated, 2_000)
    newest = newest_seq(logged_seqs(decisions))
    read_label = np.isin(newest, simulated.labels["seq"].to_numpy())
    last = int(newest[read_label][0])
    lake.remove(["fraud"])
    for table, rows in ((TRANSACTIONS_TABLE, simulated.transactions),
                        (LABELS_TABLE, simulated.labels)):  # fmt: skip
        known = rows.filter(pa.array(rows["seq"].to_numpy() <= last))
        lake.write(table, known, "history-00001", partition=table == TRANSACTIONS_TABLE)
    write(lake, decisions.filter(pa.array(newest == last)))
    found = audit(lake)
    assert (found.mismatches, found.events, found.gaps) == (0, last, 0)
    assert found.vectors > 0


def test_decisions_in_any_order_are_compared(lake, simulated):
    """Logged long after their rows have gone on: each needs another pass."""
    write(lake, logged(simulated, 400), np.random.default_rng(0).permutation(400))
    found = audit(lake)
    assert (found.vectors, found.mismatches) == (400, 0)


def test_a_changed_vector_and_an_unknown_sequence_are_found(lake, simulated):
    decisions = logged(simulated, 400)
    vectors = simulated.vectors[-400:].copy()
    vectors[11, 3] += 1e-9
    pairs = [dict(p) for p in decisions["seqs"].to_pylist()]
    pairs[17]["customer_state"] += 1
    names = decisions.column_names
    decisions = decisions.set_column(
        names.index("features"), "features", pa.array(vectors.tolist())
    ).set_column(
        names.index("seqs"),
        "seqs",
        pa.array([list(p.items()) for p in pairs], type=pa.map_(pa.string(), pa.int64())),
    )
    write(lake, decisions)
    found = audit(lake)
    assert (found.vectors, found.mismatches) == (400, 2)
    assert sorted(one.reason for one in found.examples) == [
        "a logged sequence is not among the events", "the vector differs",
    ]  # fmt: skip


def test_a_lost_event_is_a_gap(lake, simulated):
    write(lake, logged(simulated, 100))
    [file, *_] = lake.files(TRANSACTIONS_TABLE)
    lost = len(lake.read_files([file], []))
    lake.delete(file)
    assert audit(lake).gaps == lost


def test_only_the_decisions_of_some_sequences_are_compared(lake, simulated):
    """And events are folded no further than these need."""
    vectors = simulated.vectors[-500:].copy()
    vectors[[50, 250, 450], 3] += 1e-9
    decisions = logged(simulated, 500)
    at = decisions.column_names.index("features")
    write(lake, decisions.set_column(at, "features", pa.array(vectors.tolist())))
    found = audit(lake, within=(100, 400))
    assert (found.vectors, found.mismatches, found.gaps) == (300, 1, 0)
    assert audit(lake, within=(0, 10)).events <= len(simulated.events)
    assert audit(lake, within=(500, 600)).vectors == 0


def test_decisions_long_ago_need_no_later_events(lake, simulated, monkeypatch):
    early = logged(simulated, len(simulated.transactions) - 100).slice(0, 50)
    write(lake, early)
    found = audit(lake, within=(0, 50))
    assert (found.vectors, found.mismatches) == (50, 0)
    assert 0 < found.events <= 40_000 < len(simulated.events)
