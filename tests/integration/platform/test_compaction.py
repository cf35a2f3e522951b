"""Compaction against the real store: fewer files, the same rows, whenever it is killed."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from services.platform.storage import compaction, sequences
from services.platform.storage.compaction import compact
from services.platform.storage.lake import IncrementalReader, Lake
from services.platform.storage.sequences import SequenceReader

TABLE = "test/compaction"
SCHEMA = pa.schema(
    [("seq", pa.int64()), ("event_time", pa.timestamp("us", tz="UTC")), ("x", pa.string())]
)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOW = {"min_age_s": -60.0, "pause_s": 0.0}


def quiet(*_):
    pass


@pytest.fixture
def lake(config):
    lake = Lake(config)
    for number in range(12):
        flush(lake, 5 * number + 1, 5 * number + 5)
    yield lake
    lake.remove([TABLE])


def flush(lake, first, last):
    records = [
        {"seq": seq, "event_time": NOON + timedelta(hours=seq / 3), "x": f"x{seq}"}
        for seq in range(first, last + 1)
    ]
    rows = pa.Table.from_pylist(records, schema=SCHEMA)
    lake.write(TABLE, rows, f"lake-{first:012d}-{last:012d}")


def contents(lake):
    return lake.read(TABLE).to_pylist()


def test_a_file_a_date_remains_with_the_same_rows(lake):
    before, files = contents(lake), lake.files(TABLE)
    found = compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert contents(lake) == before
    assert [f.split("/")[-2] for f in lake.files(TABLE)] == ["date=2026-03-02", "date=2026-03-03"]
    assert (found.files_before, found.files_after) == ({TABLE: len(files)}, {TABLE: 2})
    assert found.rows == 60
    again = compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert (again.rows, again.files_after) == (0, {TABLE: 2})


def test_new_files_and_files_without_sequences_stay(lake):
    lake.write(TABLE, lake.read(TABLE), "history-00001")
    files = lake.files(TABLE)
    compact(lake, {TABLE: SCHEMA}, quiet, pause_s=0.0)
    assert lake.files(TABLE) == files
    compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert [f for f in lake.files(TABLE) if "history-" in f] == [
        f for f in files if "history-" in f
    ]


@pytest.mark.parametrize("removed", [-1, 0, 1, 4])
def test_killed_in_the_middle_nothing_is_lost_or_doubled(lake, monkeypatch, removed):
    """-1: killed before the last large file is written; else after so many parts are removed."""
    before = contents(lake)
    calls = []

    class Killed(BaseException):
        pass

    def deletes(self, path):
        if len(calls) == removed:
            raise Killed
        calls.append(path)
        self.filesystem.delete_file(path)

    def joins(lake, group, schema):
        if calls:
            raise Killed
        calls.append(group.path)
        return real_join(lake, group, schema)

    real_join = compaction._join
    if removed < 0:
        monkeypatch.setattr(compaction, "_join", joins)
    else:
        monkeypatch.setattr(Lake, "delete", deletes)
    with pytest.raises(Killed):
        compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert contents(lake) == before
    assert SequenceReader(lake, TABLE).between(7, 31).to_pylist() == before[7:31]
    monkeypatch.undo()
    compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert contents(lake) == before
    assert len(lake.files(TABLE)) == 2


def test_readers_that_listed_before_read_on(lake):
    ranges, newest = SequenceReader(lake, TABLE), IncrementalReader(lake, TABLE, ["x"])
    before = newest.rows(0.0).to_pylist()
    compact(lake, {TABLE: SCHEMA}, quiet, **NOW)
    assert [row["x"] for row in ranges.between(3, 40).to_pylist()] == [
        f"x{n}" for n in range(4, 41)
    ]
    flush(lake, 61, 65)
    assert newest.rows(0.0).to_pylist()[:60] == before
    assert len(newest.rows(0.0)) == 65


def test_a_table_read_while_its_files_go_is_listed_again(lake, monkeypatch):
    listed, before = Lake.files, contents(lake)

    def once(self, table, since=0.0):
        files = listed(self, table, since)
        monkeypatch.setattr(Lake, "files", listed)
        compact(self, {TABLE: SCHEMA}, quiet, **NOW)
        return files

    monkeypatch.setattr(Lake, "files", once)
    assert contents(lake) == before


def test_ranges_open_only_the_files_that_overlap(lake):
    lake.put(f"{TABLE}/date=2026-03-09/lake-000000000500-000000000510.parquet", b"no Parquet")
    reader = SequenceReader(lake, TABLE, ["x"])
    assert reader.between(0, 60)["seq"].to_pylist() == list(range(1, 61))
    with pytest.raises(ValueError, match="date=2026-03-09"):
        reader.between(400, 600)


def test_the_last_row_is_found_behind_files_that_hold_none(lake):
    flush(lake, 61, 60)
    lake.write(TABLE, lake.read(TABLE).slice(0, 2), "history-00001")
    assert SequenceReader(lake, TABLE).last_row() == 60
    assert SequenceReader(lake, "test/nothing").last_row() == 0


def test_the_newest_rows_are_read_backwards(lake, monkeypatch):
    monkeypatch.setattr(sequences, "_ROWS_AT_ONCE", 7)
    rows, reader = contents(lake), SequenceReader(lake, TABLE)
    for count in (1, 7, 20, 60, 100):
        assert reader.newest(count).to_pylist() == rows[-count:]
    assert SequenceReader(lake, "test/nothing").newest(5) is None
