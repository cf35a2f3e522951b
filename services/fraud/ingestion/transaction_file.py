"""A file of transactions, read once into a temporary table on disk and put in order of time.

What needs the whole file is decided here, before the first event is sent: which rows have a time,
which of these lie too far from the rest, and which ids occur twice. Values are read only when their
row is sent, so a file of any length costs disk space and a bounded amount of memory.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.csv_rows import csv_rows
from services.fraud.ingestion.events import microseconds
from services.fraud.ingestion.mapping import (
    ColumnNames,
    FileMapping,
    TimeFormat,
    is_missing,
)
from services.fraud.ingestion.parquet_rows import MAGIC, as_text, parquet_batches
from services.fraud.ingestion.rejections import InvalidField, Rejections, Row
from services.fraud.ingestion.time_bounds import TimeBounds, time_bounds, time_of

FIELDS = tuple(ColumnNames.model_fields)
_ROWS_PER_BATCH = 5_000
_ROWS_PER_PARQUET_BATCH = 20_000
_MAX_VALUE = 1_000
_MEMORY = "512MB"
_SKETCH = 256

_TIMESTAMP = "epoch_us(CAST(event_time AS TIMESTAMPTZ))"
# By unit, the type that holds its numbers to the microsecond, and the microseconds in one.
_UNITS = {
    "ns": ("DECIMAL(23, 3)", "CAST(0.001 AS DECIMAL(4, 3))"),
    "us": ("DECIMAL(20, 3)", "1"),
    "ms": ("DECIMAL(20, 6)", "1000"),
    "s": ("DECIMAL(20, 9)", "1000000"),
    "min": ("DECIMAL(24, 14)", "CAST(60000000 AS DECIMAL(11, 0))"),
    "h": ("DECIMAL(22, 14)", "CAST(3600000000 AS DECIMAL(11, 0))"),
    "d": ("DECIMAL(20, 14)", "CAST(86400000000 AS DECIMAL(11, 0))"),
}

_CREATE_REPEATS = """
CREATE TABLE repeats AS
WITH usual AS (SELECT * FROM staged WHERE {within}),
ids AS (
    SELECT transaction_id FROM usual WHERE transaction_id IS NOT NULL
    GROUP BY transaction_id HAVING count(*) > 1
),
found AS (
    SELECT number, line, transaction_id, time_us, row(time_us, {others}) AS content
    FROM usual SEMI JOIN ids USING (transaction_id)
)
SELECT number, line, transaction_id,
    first_value(number) OVER same_id AS first_number,
    content IS NOT DISTINCT FROM first_value(content) OVER same_id AS is_equal
FROM found
WINDOW same_id AS (PARTITION BY transaction_id ORDER BY time_us, number)
QUALIFY number <> first_number ORDER BY number
"""


class TransactionRow(NamedTuple):
    """One row of the file: texts, None for what is missing.

    Attributes:
        row: Where it stands.
        time_us: Event time, microseconds since the epoch.
        texts: By field, its text.
    """

    row: Row
    time_us: int
    texts: Mapping[str, str | None]


class TransactionFile:
    """The rows of a file in order of time.

    Attributes:
        name: Name of the file.
        mapping: How it is read.
        rejections: Rows that are left out.
        duplicates: Number of rows that repeat another one in every mapped column.
        duplicate_examples: A sentence for each of the first of them.
        rows: Number of rows to replay; some may still turn out to be invalid.
        now: Time at which it was opened; later events have not happened yet.
    """

    def __init__(
        self,
        file: Path,
        mapping: FileMapping,
        rejections: Rejections | None = None,
        any_time: bool = False,
        now: datetime | None = None,
    ) -> None:
        """Read the file.

        Args:
            file: CSV or Parquet.
            mapping: How to read it.
            rejections: Receives the rows that are left out.
            any_time: Keep rows that are far in time from the rest. Rows of the future stay out.
            now: The present time; None for the clock's.

        Raises:
            ValueError: the file cannot be read by this mapping; the message names it.
        """
        self.name = file.name
        self.mapping = mapping
        self.now = now or datetime.now(UTC)
        self.rejections = rejections if rejections is not None else Rejections(file.name)
        self.rejections.columns = mapping.columns.by_field()
        self.duplicates = 0
        self.duplicate_examples: list[str] = []
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="replay-"))
            self._db = stack.enter_context(_database(Path(folder), mapping.time.zone))
            try:
                self._stage(file)
                self._sort(time_bounds(self._db, self.now, any_time))
            except (duckdb.Error, pa.ArrowException, ValueError, OSError) as error:
                message = str(error).strip().partition("\n")[0]
                raise ValueError(f"{file.name}: {message}") from None
            (self.rows,) = self._one("SELECT count(*) FROM ordered")
            self._close = stack.pop_all()

    def __enter__(self) -> "TransactionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def read(self, first_us: int | None = None) -> Iterator[TransactionRow]:
        """The rows from an event time on, in order of time."""
        (begin,) = self._one("SELECT min(rowid) FROM ordered WHERE time_us >= ?", first_us or 0)
        while begin is not None and begin < self.rows:
            page = self._db.sql(
                f"SELECT number, line, time_us, {', '.join(FIELDS)} FROM ordered "
                "WHERE rowid >= ? AND rowid < ? ORDER BY rowid",
                params=[begin, begin + _ROWS_PER_BATCH],
            ).to_arrow_table()
            places = (page[name].to_pylist() for name in ("number", "line", "time_us"))
            texts = (as_text(page[field].combine_chunks()).to_pylist() for field in FIELDS)
            for number, line, time_us, *cells in zip(*places, *texts, strict=True):
                fields = dict(zip(FIELDS, cells, strict=True))
                yield TransactionRow(Row(number, line), time_us, fields)
            begin += _ROWS_PER_BATCH

    def sketch(self) -> list[str]:
        """The `_SKETCH` smallest hashes of its transactions (a MinHash).

        Two files that share transactions share some of these, whatever their formats and columns:
        a file that grew since, a later export of overlapping days. Equal ids with other times or
        parties are other transactions.
        """
        found = self._db.execute(
            "SELECT DISTINCT substr(md5(concat_ws(chr(31), ?, ?, transaction_id, time_us, "
            "customer_id, merchant_id)), 1, 16) AS hash FROM ordered ORDER BY hash LIMIT ?",
            [self.mapping.prefix, self.mapping.ids, _SKETCH],
        )
        return [hash_ for (hash_,) in found.fetchall()]

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        (found,) = self._db.execute(query, values).fetchall()
        return tuple(found)

    def _stage(self, file: Path) -> None:
        """Copy the mapped columns to the table `staged`, with the event time in microseconds."""
        batches = self._batches(file)
        first = next(batches, self._no_rows())
        cells = dict.fromkeys(FIELDS, "CAST(NULL AS VARCHAR)")
        for field in self.mapping.columns.by_field():
            is_text = pa.types.is_large_string(first.schema.field(field).type)
            cells[field] = f"nullif({field}, '')" if is_text else field
        # The text of a time that could be read is not needed again.
        cells["event_time"] = "CASE WHEN time_us IS NULL THEN CAST(event_time AS VARCHAR) END"
        is_time = pa.types.is_timestamp(first.schema.field("event_time").type)
        time, parameters = (_TIMESTAMP, {}) if is_time else _time_us(self.mapping.time)
        select = (
            f"SELECT number, line, {', '.join(f'{sql} AS {name}' for name, sql in cells.items())}, "
            f"time_us FROM (SELECT *, {time} AS time_us FROM batch)"
        )
        self._db.begin()
        for number, batch in enumerate(chain([first], batches)):
            self._db.register("batch", batch)
            start = "INSERT INTO staged" if number else "CREATE TABLE staged AS"
            self._db.execute(f"{start} {select}", parameters)
            self._db.unregister("batch")
        self._db.commit()

    def _no_rows(self) -> pa.Table:
        empty = pa.array([], pa.int64())
        return self._valid(empty, empty, [_binary(())] * len(self.mapping.columns.by_field()))

    def _batches(self, file: Path) -> Iterator[pa.Table]:
        """Batches of `number`, `line` and each mapped field, as `parquet_batches` types them."""
        columns = self.mapping.columns.by_field()
        with file.open("rb") as content:
            is_parquet = content.read(len(MAGIC)) == MAGIC
        if is_parquet:
            begin = 1
            for cells in parquet_batches(file, columns, _ROWS_PER_PARQUET_BATCH):
                end = begin + len(cells[0])
                numbers = pa.array(np.arange(begin, end))
                yield self._valid(numbers, pa.nulls(end - begin, pa.int64()), cells)
                begin = end
        else:
            rows = csv_rows(file, columns, self.mapping.encoding, self.rejections)
            while chunk := list(islice(rows, _ROWS_PER_BATCH)):
                numbers, lines, *texts = zip(*chunk, strict=True)
                yield self._valid(pa.array(numbers), pa.array(lines), [_binary(t) for t in texts])

    def _valid(self, numbers: pa.Array, lines: pa.Array, cells: Sequence[pa.Array]) -> pa.Table:
        """The rows whose values are text of at most 1,000 bytes; the others are rejected."""
        names = ["number", "line", *self.mapping.columns.by_field()]
        try:
            values = [_checked_text(column) for column in cells]
        except pa.ArrowInvalid:
            rows = zip(*(column.to_pylist() for column in (numbers, lines, *cells)), strict=True)
            good = pa.array([self._is_valid(*row) for row in rows], pa.bool_())
            numbers, lines = numbers.filter(good), lines.filter(good)
            values = [_checked_text(column.filter(good)) for column in cells]
        return pa.table([numbers, lines, *values], names=names)

    def _is_valid(self, number: int, line: int | None, *cells: object) -> bool:
        for field, cell in zip(self.mapping.columns.by_field(), cells, strict=True):
            if not isinstance(cell, bytes):
                continue
            text = cell[:_MAX_VALUE].decode(errors="replace")
            try:
                cell.decode()
            except UnicodeDecodeError:
                reason = "is not UTF-8; the mapping can name the encoding, such as encoding: cp1252"
            else:
                if len(cell) <= _MAX_VALUE:
                    continue
                reason = f"is longer than {_MAX_VALUE:,} bytes"
            self.rejections.add(Row(number, line), InvalidField(field, reason), text)
            return False
        return True

    def _sort(self, bounds: TimeBounds) -> None:
        """Make the table `ordered`: rows within the bounds in order of time, each id once."""
        within = f"time_us BETWEEN {bounds.low_us} AND {bounds.high_us}"
        self._reject_times(bounds, within)
        others = ", ".join(sorted(set(FIELDS) - {"transaction_id", "event_time"}))
        self._db.execute(_CREATE_REPEATS.format(within=within, others=others))
        self._reject_repeats()
        if self._is_ordered():
            self._db.execute("ALTER TABLE staged RENAME TO ordered")
            return
        self._db.execute(
            f"CREATE TABLE ordered AS SELECT * FROM staged ANTI JOIN repeats USING (number) "
            f"WHERE {within} ORDER BY time_us, number"
        )
        self._db.execute("DROP TABLE staged")

    def _is_ordered(self) -> bool:
        """Whether all rows are replayed, in the order of the file."""
        (left_out,) = self._one(
            "SELECT (SELECT count(*) FROM untimely) + (SELECT count(*) FROM repeats)"
        )
        (back,) = self._one(
            "SELECT count(*) FROM (SELECT time_us < lag(time_us) OVER (ORDER BY number) AS back "
            "FROM staged) WHERE back"
        )
        return not left_out and not back

    def _reject_times(self, bounds: TimeBounds, within: str) -> None:
        self._db.execute(
            "CREATE TABLE untimely AS SELECT number, line, event_time, time_us FROM staged "
            f"WHERE time_us IS NULL OR NOT {within} ORDER BY number"
        )
        for number, line, text, time_us in self._pages("untimely"):
            if time_us is not None:
                text, reason = f"{time_of(time_us):%Y-%m-%d %H:%M:%S}", bounds.reason(time_us)
            else:
                reason = "is missing" if is_missing(text) else self.mapping.time.reason(text)
            self.rejections.add(Row(number, line), InvalidField("event_time", reason), text)

    def _reject_repeats(self) -> None:
        for number, line, text, first, is_equal in self._pages("repeats"):
            if not is_equal:
                reason = f"is the id of row {first} too, which comes first and differs"
                self.rejections.add(
                    Row(number, line), InvalidField("transaction_id", reason), str(text)
                )
                continue
            self.duplicates += 1
            if len(self.duplicate_examples) < 3:
                self.duplicate_examples.append(
                    f"{self.name}, {Row(number, line)} repeats row {first}"
                )

    def _pages(self, table: str) -> Iterator[tuple[Any, ...]]:
        begin = 0
        while page := self._db.execute(
            f"SELECT * FROM {table} WHERE rowid >= ? AND rowid < ? ORDER BY rowid",
            [begin, begin + _ROWS_PER_BATCH],
        ).fetchall():
            yield from page
            begin += _ROWS_PER_BATCH


def _database(folder: Path, zone: str) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect(folder / "rows.db", config={"memory_limit": _MEMORY, "threads": 2})
    db.execute("SET autoinstall_known_extensions = false")
    db.execute(f"SET temp_directory = '{folder / 'spilt'}'")
    db.execute(f"SET TimeZone = '{zone}'")
    return db


def _checked_text(values: pa.Array) -> pa.Array:
    """Binary values as texts; others as they are. ArrowInvalid if one is no text, or too long."""
    if not pa.types.is_large_binary(values.type):
        return values
    if (pc.max(pc.binary_length(values)).as_py() or 0) > _MAX_VALUE:
        raise pa.ArrowInvalid
    return values.cast(pa.large_string())


def _binary(texts: Sequence[str]) -> pa.Array:
    """Texts as UTF-8; bytes that could not be decoded are as they were."""
    try:
        return pa.array(texts, pa.large_binary())
    except UnicodeEncodeError:
        return pa.array([t.encode(errors="surrogateescape") for t in texts], pa.large_binary())


def _time_us(time: TimeFormat) -> tuple[str, dict[str, str]]:
    """SQL for microseconds since the epoch from the text `event_time`, NULL for other texts."""
    if time.unit:
        number, factor = _UNITS[time.unit]
        scaled = f"round(TRY_CAST(trim(event_time) AS {number}) * {factor})"
        return f"TRY(CAST({scaled} AS BIGINT) + {microseconds(time.origin)})", {}
    if time.format:
        parsed = "CAST(try_strptime(trim(event_time), $format) AS TIMESTAMPTZ)"
        return f"TRY(epoch_us({parsed}))", {"format": time.format}
    # DuckDB would read `epoch` and `infinity` too.
    parsed = "TRY(epoch_us(TRY_CAST(trim(event_time) AS TIMESTAMPTZ)))"
    return f"CASE WHEN substr(trim(event_time), 5, 1) = '-' THEN {parsed} END", {}
