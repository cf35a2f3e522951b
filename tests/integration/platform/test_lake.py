"""The lake, against the real store: no duplicate rows, and only the requested days."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from services.platform.storage.lake import IncrementalReader, Lake, event_time_before

SCHEMA = pa.schema([("seq", pa.int64()), ("event_time", pa.timestamp("us", tz="UTC"))])
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def rows(*events):
    records = [{"seq": seq, "event_time": time} for seq, time in events]
    return pa.Table.from_pylist(records, schema=SCHEMA)


@pytest.fixture
def lake(config):
    lake = Lake(config)
    yield lake
    lake.remove(["test/lake"])


def test_rows_are_deduplicated_and_in_order(lake):
    lake.write("test/lake", rows((2, NOON), (1, NOON)), "a")
    lake.write("test/lake", rows((2, NOON), (3, NOON)), "b")
    assert lake.read("test/lake")["seq"].to_pylist() == [1, 2, 3]
    assert lake.read("test/nothing") is None


def test_files_of_earlier_days_are_not_opened(lake):
    lake.put("test/lake/date=2026-03-01/a.parquet", b"no Parquet at all")
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON)), "a")
    lake.write("test/lake", rows((3, NOON)), "undated", partition=False)
    with pytest.raises(ValueError, match="date=2026-03-01"):
        lake.read("test/lake")
    since = NOON.replace(hour=6).timestamp()
    assert lake.read("test/lake", since=since)["seq"].to_pylist() == [2, 3]
    assert lake.read("test/lake", ["seq"], since=since).column_names == ["seq"]


def test_rows_from_the_end_of_a_window_on_are_filtered(lake):
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON), (3, NOON)), "a")
    assert lake.read("test/lake", where=event_time_before(NOON))["seq"].to_pylist() == [1]
    assert len(lake.read("test/lake", ["seq"], event_time_before(NOON.replace(day=1)))) == 0


def test_an_incremental_reader_opens_each_file_once_and_discards_old_rows(lake):
    reader = IncrementalReader(lake, "test/lake", [])
    assert reader.rows(0.0) is None
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON)), "a")
    assert reader.rows(0.0)["seq"].to_pylist() == [1, 2]
    [opened] = lake.files("test/lake")
    lake.put(opened.partition("/")[2], b"no Parquet at all")
    # The second batch overlaps the first, as after a redelivery.
    lake.write("test/lake", rows((2, NOON), (3, NOON.replace(hour=13))), "b")
    assert reader.rows(0.0)["seq"].to_pylist() == [1, 2, 3]
    assert reader.rows(NOON.timestamp())["seq"].to_pylist() == [2, 3]
    assert reader.rows(NOON.replace(hour=14).timestamp())["seq"].to_pylist() == []
