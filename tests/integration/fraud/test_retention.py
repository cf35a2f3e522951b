"""Retention: whole days of decisions expire, and never one that something needs."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from monitoring.drift_table import REASONS, read_windows, window_row, write_window
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, TRANSACTIONS_TABLE
from services.fraud.retraining.retention import RETENTION_DAYS, expire, kept_from
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake, partition_date
from tests.conftest import card

FIRST = datetime(2022, 1, 1, tzinfo=UTC)
DAYS = 400
A_DAY = 60


@contextmanager
def quiet(title):
    yield lambda *_: None


def day(number, feed, first_seq):
    begin = FIRST + timedelta(days=number)
    rows = [
        {
            "seq": first_seq + n, "transaction_id": f"t{number}-{n}", "feed": feed,
            "event_time": begin + timedelta(minutes=n), "customer_id": "c", "merchant_id": "m",
            "amount_minor": 1, "cart": [], "decision_id": f"{number}-{n}", "decision": "approve",
            "score": 0.1, "threshold": 0.2, "model": "xgboost:1", "degraded": False,
            "synthetic": False, "features": [], "seqs": [],
        }
        for n in range(A_DAY)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=DECISION_SCHEMA)


def write(lake, days, feed):
    for number in days:
        first = number * A_DAY + 1
        name = f"lake-decisions-{first:012d}-{first + A_DAY - 1:012d}"
        lake.write(DECISIONS_TABLE, day(number, feed, first), name)


@pytest.fixture
def lake(config):
    lake = Lake(config)
    lake.remove(["fraud", "models"])
    write(lake, range(0, DAYS, 20), "a")
    write(lake, [DAYS - 1], "a")
    lake.write(TRANSACTIONS_TABLE, day(0, "a", 1).select(["seq", "event_time"]), "history-00000")
    yield lake
    lake.remove(["fraud", "models"])


def dates(lake):
    return [partition_date(file) for file in lake.files(DECISIONS_TABLE)]


def test_old_days_of_decisions_go_and_events_stay(config, lake):
    found = expire(config, quiet)
    last = FIRST + timedelta(days=DAYS - 1)
    assert found.files == 11
    assert dates(lake)[0] >= found.before
    assert datetime.fromisoformat(found.before).replace(tzinfo=UTC) <= last - timedelta(
        days=RETENTION_DAYS - 1
    )
    assert len(lake.files(TRANSACTIONS_TABLE)) == 1
    assert expire(config, quiet).files == 0


def test_old_windows_of_the_monitors_go_too(config, lake):
    """One file a window and feed: a month of load makes tens of thousands."""
    last = FIRST + timedelta(days=DAYS - 1)
    for of in ("", REASONS):
        for seq, begin in enumerate((FIRST, last), start=1):
            row = window_row(seq, begin, "xgboost:1", 200, ("score",), {}, [])
            write_window(lake, "fraud", row, of)
    expire(config, quiet)
    for of in ("", REASONS):
        assert read_windows(lake, "fraud", of)["event_time"].to_pylist() == [last]


def test_what_the_gate_needs_stays(config, lake, onnx):
    """The champion was trained on 2022-04-01: all decisions since then are its evidence."""
    from services.fraud.model import read_model

    put_served(config, write_card(onnx, card()), "fraud", CHAMPION, 1)
    unseen = read_model(onnx).card.unseen_since
    needed = f"{datetime.fromtimestamp(unseen, UTC):%Y-%m-%d}"
    before = [date for date in dates(lake) if date >= needed]
    expire(config, quiet)
    assert [date for date in dates(lake) if date >= needed] == before


def test_a_feed_that_is_behind_keeps_its_decisions(config, lake):
    before = len(dates(lake))
    write(lake, [10], "b")
    assert expire(config, quiet).files == 0
    assert len(dates(lake)) == before + 1


def test_a_retention_within_the_dispute_window_is_refused(config):
    with pytest.raises(ValueError, match="disputes are open for 14 days"):
        kept_from(config, 10)
