"""The watermark: events of another time change nothing in what counts as settled."""

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from features.spec import DAY
from monitoring.quality import periods
from services.fraud.features.states import FEATURE_SET, FEATURES
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABEL_SCHEMA,
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.ingestion.watermark import MIN_SUPPORT, feed_clock
from services.fraud.monitoring.quality import OutcomeReader
from services.fraud.problem import DISPUTE_WINDOW_DAYS, CostModel
from services.fraud.retraining.dataset import GATE_DAYS, NotEnoughData, training_rows
from services.fraud.retraining.labelled import after, labelled_transactions
from services.fraud.retraining.outcomes import labelled_decisions
from services.fraud.retraining.plan import REQUIRED_LABELS
from services.platform.retraining import challenge
from services.platform.retraining.spec import ImplausibleLabels, TooFewLabels
from tests.unit.fraud.whole_tables import clocks, settle

BEGIN = datetime(2022, 5, 1, tzinfo=UTC)
DAYS, PER_DAY = 46, 160
FRAUD_SHARE = 0.03


class MemoryLake:
    """A lake's tables in memory."""

    def __init__(self, tables):
        self.tables = tables

    def files(self, table, since=0.0, until=0.0):
        return [f"bucket/{table}/lake-000000000000-000000099999.parquet"]

    def read(self, table, columns=None, where=None, since=0.0, schema=None):
        return self.read_files(self.files(table), columns, where, since, schema)

    def read_files(self, files, columns=None, where=None, since=0.0, schema=None):
        if (
            not files
            or (rows := next((r for t, r in self.tables.items() if t in files[0]), None)) is None
        ):
            return None
        wanted = None if columns is None else list(dict.fromkeys(["seq", *columns]))
        return ds.dataset(rows).to_table(columns=wanted, filter=where)


def transaction(n, at, feed=None):
    return {"seq": n + 1, "transaction_id": f"t{n}", "event_time": at, "customer_id": f"c{n % 50}",
            "merchant_id": "m1", "device_id": None, "ip": None, "feed": feed, "amount_minor": 5_000,
            "currency": "EUR", "cart": [], "outcome": None}  # fmt: skip


def world(extra=(), feed="simulator"):
    """A lake of settled days; chargebacks come early, the other labels when the window closes.

    Args:
        extra: Event times and feeds of further transactions, charged back.
    """
    rng = np.random.default_rng(0)
    count = DAYS * PER_DAY
    transactions = [transaction(n, BEGIN + timedelta(days=n / PER_DAY), feed) for n in range(count)]
    fraud = rng.random(count) < FRAUD_SHARE
    delay = np.where(fraud, rng.uniform(0, DISPUTE_WINDOW_DAYS, count), DISPUTE_WINDOW_DAYS)
    labels = [
        {**row, "seq": count + row["seq"], "event_time": due, "fraud": bool(is_fraud)}
        for row, is_fraud, days in zip(transactions, fraud, delay, strict=True)
        if (due := row["event_time"] + timedelta(days=days)) < BEGIN + timedelta(days=DAYS)
    ]
    for number, (at, name) in enumerate(extra):
        transactions.append(transaction(3 * count + number, at, name))
        labels.append({**transactions[-1], "seq": 4 * count + number, "fraud": True})
    tables = {
        name: pa.Table.from_pylist([{f: row[f] for f in schema.names} for row in rows], schema)
        for name, schema, rows in (
            (TRANSACTIONS_TABLE, TRANSACTION_SCHEMA, transactions),
            (LABELS_TABLE, LABEL_SCHEMA, labels),
        )
    }
    return MemoryLake({**tables, DECISIONS_TABLE: decisions(tables[TRANSACTIONS_TABLE])})


def decisions(transactions):
    """A decision on each transaction; its features tell which one."""
    count = len(transactions)
    seq = transactions["seq"].to_numpy()
    ends = np.arange(count + 1, dtype=np.int32)
    same = {"decision": "approve", "score": 0.1, "threshold": 0.5, "model": "xgboost:1",
            "degraded": False, "synthetic": False, "feature_set": FEATURE_SET.hash}  # fmt: skip
    columns = {
        **{name: transactions[name] for name in transactions.column_names},
        **{name: pa.repeat(value, count) for name, value in same.items()},
        "decision_id": transactions["transaction_id"],
        "features": pa.ListArray.from_arrays(
            ends * len(FEATURES), np.repeat(seq.astype(float), len(FEATURES))
        ),
        "seqs": pa.array([[]] * count, DECISION_SCHEMA.field("seqs").type),
        "costs": pa.nulls(count, DECISION_SCHEMA.field("costs").type),
    }
    unset = {field.name: pa.nulls(count, field.type) for field in DECISION_SCHEMA if field.nullable}
    made = pa.table({name: {**unset, **columns}[name] for name in DECISION_SCHEMA.names})
    return made.cast(DECISION_SCHEMA)


END = BEGIN + timedelta(days=DAYS)
OLD = datetime(2018, 3, 1, tzinfo=UTC)
EXTRA = {
    "three rows two months ahead": [(END + timedelta(days=61), "simulator")] * 3,
    "a row dated today": [(datetime(2026, 11, 27, tzinfo=UTC), "simulator")],
    "three rows years behind": [(OLD, "simulator")] * 3,
    "another feed": [(OLD + timedelta(hours=hour), "old.csv") for hour in range(40)],
}


@pytest.fixture(scope="module")
def usual():
    return world()


def all_periods(lake):
    return periods(OutcomeReader(lake)({}), CostModel(), DAY)


def settled_rows(lake):
    return labelled_transactions(lake, after(0.0)).settled


def training(lake):
    return training_rows(lake).settled.rows


def ids(rows):
    return rows["transaction_id"].to_pylist()


def test_what_is_settled_ends_a_dispute_window_before_the_watermark(usual):
    settled = settled_rows(usual)
    half_a_day = PER_DAY // 2
    assert len(settled) == (DAYS - DISPUTE_WINDOW_DAYS) * PER_DAY - half_a_day
    assert settled.rows["fraud"].to_numpy().mean() == pytest.approx(FRAUD_SHARE, abs=0.01)
    gate = training(usual)
    assert len(gate) == (DAYS - DISPUTE_WINDOW_DAYS - 10 - GATE_DAYS) * PER_DAY - half_a_day


@pytest.mark.parametrize("extra", EXTRA.values(), ids=list(EXTRA))
def test_events_of_another_time_change_nothing(usual, extra):
    changed = world(extra)
    added = {f"t{3 * DAYS * PER_DAY + n}" for n in range(len(extra))}
    # A row that was left behind is past its window; it takes no other's place.
    settled = ids(settled_rows(changed).rows)
    assert [i for i in settled if i not in added] == ids(settled_rows(usual).rows)
    assert training(changed).equals(training(usual))
    since = (BEGIN + timedelta(days=25)).timestamp()
    one, other = (labelled_decisions(None, lake, since, graph=False) for lake in (usual, changed))
    assert ids(one.rows) == ids(other.rows)
    assert np.array_equal(one.vectors, other.vectors)
    assert np.array_equal(one.until, other.until)
    assert len(one) > 1_000
    assert all_periods(changed) == all_periods(usual)
    assert len(all_periods(usual)) == DAYS - DISPUTE_WINDOW_DAYS - 1


def test_events_far_ahead_are_counted_and_named(caplog):
    lake = world(EXTRA["three rows two months ahead"])
    with caplog.at_level(logging.WARNING):
        clock = settled_rows(lake).clocks["simulator"]
    assert clock.ahead == 3
    assert clock.ahead_s / DAY == pytest.approx(61.5, abs=0.1)
    [line] = caplog.messages
    assert line.startswith("feed simulator: 3 transactions lie up to 62 days ahead of the others")


def test_a_feed_settles_by_its_own_time():
    """Two data sets of other years: each is settled as if it were alone."""
    at = [OLD + timedelta(hours=h / 4) for h in range(30 * 96)]
    lake = world([(one, "old.csv") for one in at])
    settled = settled_rows(lake)
    alone = settled_rows(world())
    older = settled.time < BEGIN.timestamp()
    assert ids(settled.select(~older).rows) == ids(alone.rows)
    assert older.sum() == 16 * 96 - MIN_SUPPORT


def test_a_feed_of_few_transactions_has_no_watermark_and_settles_nothing():
    time = np.arange(MIN_SUPPORT - 1) * DAY
    assert feed_clock(time) is None
    at = pa.array((time * 1e6).astype("datetime64[us]"), pa.timestamp("us", "UTC"))
    rows = pa.table({"event_time": at, "transaction_id": [f"t{n}" for n in range(len(time))]})
    labels = pa.table({"transaction_id": ["t0"], "fraud": [True]})
    assert len(settle(rows, labels)) == 0


def test_a_sparse_feed_and_many_names_have_their_times():
    # Two a day: fifty take 25 days, and none of them is far ahead.
    sparse = feed_clock(np.arange(400) * DAY / 2)
    assert sparse.ahead == sparse.behind == 0
    assert sparse.watermark == 350 * DAY / 2
    names = [f"n{n}" for n in range(20_000)]
    rows = pa.table(
        {"event_time": pa.array([BEGIN] * 20_000, pa.timestamp("us", "UTC")), "feed": names}
    )
    assert clocks(rows) == {}


def test_rows_of_files_from_before_feeds_are_one_feed(usual):
    old = world(feed=None)
    old.tables[TRANSACTIONS_TABLE] = old.tables[TRANSACTIONS_TABLE].drop_columns(["feed"])
    assert set(clocks(old.tables[TRANSACTIONS_TABLE])) == {""}
    assert ids(settle(old.tables[TRANSACTIONS_TABLE], old.tables[LABELS_TABLE]).rows) == ids(
        settled_rows(usual).rows
    )


def relabelled(lake, fraud):
    """The lake with other labels: those of `fraud` (by transaction id), the others left out."""
    labels = lake.tables[LABELS_TABLE].to_pylist()
    kept = [
        {**row, "fraud": fraud[row["transaction_id"]]}
        for row in labels
        if row["transaction_id"] in fraud
    ]
    return MemoryLake({**lake.tables, LABELS_TABLE: pa.Table.from_pylist(kept, LABEL_SCHEMA)})


@pytest.mark.parametrize(
    ("is_fraud", "message"),
    [(True, "all .* labelled transactions are frauds"), (False, "none of .* are frauds")],
)
def test_training_refuses_labels_of_one_kind(usual, is_fraud, message):
    labels = relabelled(usual, {f"t{n}": is_fraud for n in range(0, DAYS * PER_DAY, 2)})
    with pytest.raises(ImplausibleLabels, match=message):
        training_rows(labels)


def test_too_few_days_are_still_said_first(usual):
    few = MemoryLake({t: rows.slice(0, 25 * PER_DAY) for t, rows in usual.tables.items()})
    with pytest.raises(NotEnoughData, match="labelled days"):
        training_rows(few)


def positives(count, positive):
    return np.arange(count) < positive


@pytest.mark.parametrize(
    ("count", "frauds", "prior", "message"),
    [
        (21, 21, 0.01, "all 21 labelled decisions since v1 are frauds. Check that all decisions"),
        (6_000, 0, 0.01, "none of 6,000 labelled decisions since v1 are frauds"),
        (6_000, 700, 0.01, r"700 of 6,000 .* \(11.7%\), more than 10 times the usual 1.00%"),
    ],
)
def test_the_gate_refuses_a_mix_that_cannot_be(count, frauds, prior, message):
    with pytest.raises(ImplausibleLabels, match=message):
        REQUIRED_LABELS.check(positives(count, frauds), "since v1", "to decide on", prior)


def test_usual_mixes_and_unknown_priors_pass():
    REQUIRED_LABELS.check(positives(6_000, 500), "since v1", "to decide on", 0.01)
    REQUIRED_LABELS.check(positives(6_000, 700), "since v1", "to decide on")
    with pytest.raises(TooFewLabels, match="are needed"):
        REQUIRED_LABELS.check(positives(3, 3), "since v1", "to decide on", 0.01)


def test_nightly_retraining_reports_such_labels_as_its_outcome(monkeypatch):
    def refuse(*_):
        raise ImplausibleLabels("all 300 labelled decisions are frauds")

    class Spec:
        before_retraining = None

    monkeypatch.setattr(challenge, "retrain", refuse)
    result = challenge.nightly_retraining(Spec, None, 0, None, None)
    assert result.message == "all 300 labelled decisions are frauds"
    assert result.record is None
