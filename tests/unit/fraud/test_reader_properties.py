"""Whatever the bytes of a file: events or a named error, every row accounted for, little memory."""

import io
import tracemalloc
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.fraud.ingestion.events import microseconds
from services.fraud.ingestion.replay import LabelCounts, replayed_events
from services.fraud.ingestion.transaction_file import TransactionFile
from tests.unit.fraud.replay_files import NOW, Replayed, mapping, write_csv

HEADER = b"id,when,who,shop,eur,bad\n"
CELL = st.one_of(
    st.sampled_from(
        ["1", "2", "0007", "2024-01-01", "2024-01-02 10:00:00", "1999-01-01", "2030-01-01", "12.75",
         "twelve", "Y", "maybe", "NaN", "", '"', '"a', "a,b", "Zo\u00eb", "\x00", "\r", "9" * 40]
    ),
    st.text(max_size=8),
)  # fmt: skip
ROWS = st.lists(st.lists(CELL, min_size=4, max_size=7), max_size=12).map(
    lambda rows: "\n".join(",".join(row) for row in rows).encode()
)
MAPPINGS = st.builds(
    mapping,
    ids=st.sampled_from(["keep", "escape", "hash"]),
    decimal=st.sampled_from([".", ","]),
    encoding=st.sampled_from(["utf-8", "cp1252", "utf-16"]),
    time=st.sampled_from([{}, {"unit": "s"}, {"unit": "d"}, {"format": "%d.%m.%Y"}]),
)


def read(folder, content, read_by=None):
    """Replay a file with this content; the error must name the file."""
    path = folder / "t.csv"
    path.write_bytes(content)
    try:
        return Replayed(path, read_by)
    except ValueError as error:
        message = str(error)
    assert message.startswith("t.csv: ")
    assert len(message) < 2_000
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


@settings(max_examples=100)
@given(content=st.binary(max_size=400) | ROWS, read_by=MAPPINGS)
def test_whatever_the_bytes_of_a_csv_the_outcome_is_events_or_named_errors(
    folder, content, read_by
):
    found = read(folder, HEADER + content, read_by)
    if found is None:
        return
    times = [microseconds(one.event.event_time) for one in found.events]
    assert times == sorted(times)
    assert len(set(found.ids)) == len(found.ids)
    assert all(text.startswith("t.csv, row ") for text in found.rejected)
    assert set(found.labels) <= set(found.ids)


@settings(max_examples=60)
@given(cells=st.lists(st.tuples(*[CELL.filter(lambda c: '"' not in c)] * 6), max_size=12))
def test_every_row_is_an_event_a_repeat_or_rejected(folder, cells):
    clean = [[c.translate({10: " ", 13: " ", 44: " "}) for c in row] for row in cells]
    lines = "\n".join(",".join(row) for row in clean)
    found = read(folder, HEADER + lines.encode())
    assert found is not None
    counted = len(found.ids) + found.source.duplicates + found.source.rejections.count
    assert counted == len(cells)


def valid_parquet():
    table = {
        "id": ["1", "2", "3"],
        "when": [datetime(2024, 1, n) for n in (1, 2, 3)],
        "who": ["7"] * 3,
        "shop": [3.0, None, 5.0],
        "eur": [1.5] * 3,
        "bad": [0, 1, None],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue()  # fmt: skip


PARQUET = valid_parquet()


@settings(max_examples=100)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(PARQUET) - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    end=st.integers(4, len(PARQUET)) | st.just(len(PARQUET)),
)
def test_whatever_the_bytes_of_a_parquet_file_the_outcome_is_events_or_a_named_error(
    folder, changes, end
):
    content = bytearray(PARQUET)
    for position, byte in changes:
        content[position] = byte
    read(folder, bytes(content[:end]))


@pytest.mark.slow
def test_a_long_file_needs_no_more_memory_than_a_short_one(tmp_path):
    def peak(count):
        rows = (f"{n},2024-01-01 {n // 3600:02}:{n // 60 % 60:02}:{n % 60:02},7,3,1,0"
                for n in range(count))  # fmt: skip
        path = write_csv(tmp_path / "t.csv", list(rows))
        tracemalloc.start()
        with TransactionFile(path, mapping(), now=NOW) as source:
            for _ in replayed_events(source, counts=LabelCounts()):
                pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(24_000) < 1.5 * peak(8_000)


@pytest.mark.parametrize(
    "content",
    [b'"' * 3_000_000, b'"\n' * 20_000, b"," * 3_000_000, b'a,"\n' * 20_000, b"\n" * 10**6],
)
def test_hostile_quotes_end_in_bounded_time(folder, content):
    found = read(folder, HEADER + content + b"\n1,2024-01-01,7,3,1,0\n")
    assert found is not None
    assert found.ids in (["1"], [])
