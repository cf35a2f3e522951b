"""Replay of a file: the order of its events, labels that are not known, and rejected rows."""

from datetime import UTC, datetime, timedelta

import pytest

from services.fraud.ingestion.events import LabelEvent, Transaction, microseconds
from services.fraud.ingestion.replay import LabelCounts, replayed_events
from services.fraud.ingestion.transaction_file import TransactionFile
from tests.unit.fraud.replay_files import NOW, Replayed, mapping, write_csv

ROWS = (
    "1,2024-01-01 00:00:00,7,3,12.34,0",
    "2,2024-01-03 00:00:00,7,4,0.05,1",
    "3,2024-01-09 00:00:00,8,3,abc,0",
    "4,2024-01-09 12:00:00,8,3,-5.00,0",
    "5,2024-01-12 00:00:00,,3,1.00,0",
    "6,2024-01-20 00:00:00,9,3,99.999,0",
)


@pytest.fixture
def file(tmp_path):
    return write_csv(tmp_path / "t.csv", ROWS)


def test_transactions_and_labels_come_in_order_of_time(file):
    found = Replayed(file, mapping(prefix="x"))
    times = [microseconds(one.event.event_time) for one in found.events]
    assert times == sorted(times)
    asked = [one for one in found.events if isinstance(one.event, Transaction)]
    assert [one.event.transaction_id for one in asked] == ["x1", "x2", "x6"]
    assert [one.event.amount_minor for one in asked] == [1234, 5, 10000]
    assert [one.fraud for one in asked] == [False, True, False]
    assert all(one.event.device_id is None and one.event.cart == [] for one in asked)
    assert found.labels == {"x1": False, "x2": True, "x6": False}
    labels = {
        one.event.transaction_id: one.event
        for one in found.events
        if isinstance(one.event, LabelEvent)
    }
    for one in asked:
        label = labels[one.event.transaction_id]
        assert label.event_time - one.event.event_time == timedelta(days=7)
        assert (label.customer_id, label.merchant_id) == (
            one.event.customer_id,
            one.event.merchant_id,
        )


def test_invalid_rows_are_left_out_with_file_row_column_and_reason(file):
    found = Replayed(file)
    assert found.source.rejections.count == len(found.rejected) == 3
    assert found.rejected[0] == 't.csv, row 3 (line 4), column "eur": "abc" is not a number'
    assert 'row 4 (line 5), column "eur": "-5.00" is refused' in found.rejected[1]
    assert 'row 5 (line 6), column "who" is missing' in found.rejected[2]
    assert found.source.rejections.by_field == {"amount": 2, "customer_id": 1}


def read(file, **bounds):
    with TransactionFile(file, mapping(), now=NOW) as source:
        return [one.event for one in replayed_events(source, **bounds)]


def test_it_can_begin_at_a_later_time_without_the_labels_of_earlier_transactions(file):
    found = read(file, since=datetime(2024, 1, 15, tzinfo=UTC))
    assert [event.transaction_id for event in found] == ["6", "6"]


@pytest.mark.parametrize("sent", range(7))
def test_it_goes_on_behind_any_event(file, sent):
    events = read(file)
    after = events[sent - 1].event_time if sent else None
    assert read(file, after=after) == events[sent:]


def test_a_missing_label_is_not_known_yet_and_sends_no_label(tmp_path):
    spellings = ("", "NaN", "nan", "NULL", "None", "NA", "<NA>", "N/A", r"\N", "  ")
    rows = [f"{n},2024-01-01 00:00:0{n},7,3,1,{text}" for n, text in enumerate(spellings)]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert len(found.transactions) == len(spellings)
    assert found.labels == {}
    assert {one.fraud for one in found.events} == {None}
    assert found.counts == LabelCounts(unknown=len(spellings))


def test_a_file_without_a_column_of_labels_has_no_labels(tmp_path):
    columns = {**mapping().columns.by_field()}
    del columns["fraud"]
    found = Replayed(write_csv(tmp_path / "t.csv", ROWS), mapping(columns=columns))
    assert len(found.events) == found.counts.unknown == 3


def test_a_label_that_falls_due_after_now_is_not_sent(tmp_path):
    rows = ["1,2024-05-20,7,3,1,1", "2,2024-05-30,7,3,1,1"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert len(found.transactions) == 2
    assert found.labels == {"1": True}
    assert found.counts == LabelCounts(not_due=1)


def test_an_invalid_address_is_named_and_a_missing_one_is_null(tmp_path):
    rows = ["1,2024-01-01,7,3,1,0,10.0.0.1", "2,2024-01-02,7,3,1,0,", "3,2024-01-03,7,3,1,0,here"]
    path = write_csv(tmp_path / "t.csv", rows, "id,when,who,shop,eur,bad,addr")
    found = Replayed(path, mapping(columns={**mapping().columns.by_field(), "ip": "addr"}))
    assert [event.ip for event in found.transactions] == ["10.0.0.1", None]
    assert 'column "addr": "here" is refused' in found.rejected[0]
