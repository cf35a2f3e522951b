"""Replay of a file: its mapping, the order of events, and rejected rows."""

from datetime import timedelta
from pathlib import Path

import pytest

from services.fraud.ingestion.events import LabelEvent, Transaction, microseconds
from services.fraud.ingestion.replay import FileMapping, replayed_events

CSV = """id,when,who,shop,eur,bad
1,2024-01-01 00:00:00,7,3,12.34,0
2,2024-01-03 00:00:00,7,4,0.05,1
3,2024-01-09 00:00:00,8,3,abc,0
4,2024-01-09 12:00:00,8,3,-5.00,0
5,2024-01-12 00:00:00,,3,1.00,0
6,2024-01-20 00:00:00,9,3,99.999,0
"""
YAML = """
columns: {transaction_id: id, event_time: when, customer_id: who, merchant_id: shop, amount: eur,
          fraud: bad}
prefix: x
label_delay_days: 7
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "m.yaml").write_text(YAML)
    return tmp_path / "t.csv", tmp_path / "m.yaml"


def test_transactions_and_labels_come_in_order_of_time(files):
    file, mapping = files
    rejected: list[str] = []
    found = list(replayed_events(file, FileMapping.load(str(mapping)), None, rejected))
    times = [microseconds(h.event.event_time) for h in found]
    assert times == sorted(times)
    asked = [h for h in found if isinstance(h.event, Transaction)]
    assert [h.event.transaction_id for h in asked] == ["x1", "x2", "x6"]
    assert [h.event.amount_minor for h in asked] == [1234, 5, 10000]
    assert [h.fraud for h in asked] == [False, True, False]
    assert all(h.event.device_id is None and h.event.cart == [] for h in asked)
    labels = {h.event.transaction_id: h.event for h in found if isinstance(h.event, LabelEvent)}
    assert {name: label.fraud for name, label in labels.items()} == {
        "x1": False,
        "x2": True,
        "x6": False,
    }
    for h in asked:
        delay = labels[h.event.transaction_id].event_time - h.event.event_time
        assert delay == timedelta(days=7)


def test_invalid_rows_are_left_out_with_a_reason(files):
    file, mapping = files
    rejected: list[str] = []
    list(replayed_events(file, FileMapping.load(str(mapping)), None, rejected))
    assert len(rejected) == 3
    assert "amount: abc" in rejected[0]
    assert "amount_minor" in rejected[1]
    assert "customer_id" in rejected[2]


def test_it_can_begin_at_a_later_time(files):
    file, mapping = files
    found = replayed_events(file, FileMapping.load(str(mapping)), "2024-01-15", [])
    assert next(found).event.transaction_id == "x6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {transaction_id: id}", "columns.event_time"),
        (YAML + "colour: blue", "colour"),
        (YAML.replace("label_delay_days: 7", "label_delay_days: -1"), "label_delay_days"),
        ("columns: [", "mapping"),
    ],
)
def test_a_bad_mapping_names_its_field(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        FileMapping.load(str(path))


def test_a_missing_column_is_named(files):
    file, mapping = files
    mapping.write_text(YAML.replace("shop", "store"))
    with pytest.raises(ValueError, match="store"):
        list(replayed_events(file, FileMapping.load(str(mapping)), None, []))


def test_the_package_has_the_handbooks_mapping():
    assert FileMapping.load("handbook").columns.merchant_id == "TERMINAL_ID"
