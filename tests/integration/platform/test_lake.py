"""The lake, against the real store: rows once, and only the days that are asked for."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from services.platform.storage.lake import Lake, Tail, until

SCHEMA = pa.schema([("seq", pa.int64()), ("event_time", pa.timestamp("us", tz="UTC"))])
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def rows(*at):
    made = [{"seq": seq, "event_time": when} for seq, when in at]
    return pa.Table.from_pylist(made, schema=SCHEMA)


@pytest.fixture
def lake(config):
    lake = Lake(config)
    yield lake
    lake.remove(["test/lake"])


def test_a_row_written_twice_is_read_once_in_order(lake):
    lake.write("test/lake", rows((2, NOON), (1, NOON)), "a")
    lake.write("test/lake", rows((2, NOON), (3, NOON)), "b")
    assert lake.read("test/lake")["seq"].to_pylist() == [1, 2, 3]
    assert lake.read("test/nothing") is None


def test_days_before_those_asked_for_are_not_even_opened(lake):
    lake.put("test/lake/date=2026-03-01/a.parquet", b"no Parquet at all")
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON)), "a")
    lake.write("test/lake", rows((3, NOON)), "undated", partition=False)
    with pytest.raises(ValueError, match="date=2026-03-01"):
        lake.read("test/lake")
    since = NOON.replace(hour=6).timestamp()
    assert lake.read("test/lake", since=since)["seq"].to_pylist() == [2, 3]
    assert lake.read("test/lake", ["seq"], since=since).column_names == ["seq"]


def test_a_window_of_the_past_ends_where_it_is_told_to(lake):
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON), (3, NOON)), "a")
    assert lake.read("test/lake", where=until(NOON))["seq"].to_pylist() == [1]
    assert len(lake.read("test/lake", ["seq"], until(NOON.replace(day=1)))) == 0


def test_a_tail_opens_each_file_once_and_forgets_what_is_old(lake):
    tail = Tail(lake, "test/lake", [])
    assert tail.rows(0.0) is None
    lake.write("test/lake", rows((1, NOON.replace(hour=1)), (2, NOON)), "a")
    assert tail.rows(0.0)["seq"].to_pylist() == [1, 2]
    [opened] = lake.files("test/lake")
    lake.put(opened.partition("/")[2], b"no Parquet at all")
    # The second batch overlaps the first, as one that was delivered again may.
    lake.write("test/lake", rows((2, NOON), (3, NOON.replace(hour=13))), "b")
    assert tail.rows(0.0)["seq"].to_pylist() == [1, 2, 3]
    assert tail.rows(NOON.timestamp())["seq"].to_pylist() == [2, 3]
    assert tail.rows(NOON.replace(hour=14).timestamp())["seq"].to_pylist() == []
