"""The lake: Parquet on S3, one folder per table, partitioned by event date.

It is read with pyarrow's S3 client: DuckDB would download an extension at run time, which a closed
network forbids. Every row has a stream sequence, and readers keep one row per sequence, so a batch
may be written twice.
"""

import io
import re
import urllib.parse
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileType, S3FileSystem

from services.platform.settings import Settings

_READ_ATTEMPTS = 4
# Rows are filtered by the statistics of row groups: a range of a large file reads a part of it.
_ROWS_PER_GROUP = 50_000
# The last second of year 9999.
LAST = 253402300799.0
_DATE = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/")


def event_time_before(moment: datetime) -> pc.Expression:
    """A filter: rows with an event time before `moment`."""
    return pc.field("event_time") < pa.scalar(moment, pa.timestamp("us", tz="UTC"))


class Lake:
    """The lake of one installation. Creating one does not connect yet.

    Attributes:
        bucket: The S3 bucket.
        filesystem: pyarrow's S3 client.
    """

    def __init__(self, settings: Settings, bucket: str = "") -> None:
        """Use the lake's bucket, or another bucket of the same store."""
        url = urllib.parse.urlsplit(settings.s3)
        self.bucket = bucket or settings.bucket
        self.filesystem = S3FileSystem(
            access_key=settings.user,
            secret_key=settings.plain_password,
            endpoint_override=url.netloc,
            scheme=url.scheme,
            region="us-east-1",
            connect_timeout=3,
            request_timeout=30,
            # A small object takes one request instead of the three of a multipart upload.
            allow_delayed_open=True,
        )

    def write(self, table: str, rows: pa.Table, name: str, partition: bool = True) -> None:
        """Write rows as one file per date, overwriting files of the same name.

        Raises:
            OSError: S3 did not store it.
        """
        if not partition or not rows.num_rows:
            self.put_table(f"{table}/{name}.parquet", rows)
            return
        dates = pc.strftime(rows["event_time"], format="%Y-%m-%d")
        for date in pc.unique(dates).to_pylist():
            part = rows.filter(pc.equal(dates, date))
            self.put_table(f"{table}/date={date}/{name}.parquet", part)

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        since: float = 0.0,
        schema: pa.Schema | None = None,
    ) -> pa.Table | None:
        """Rows of a table in order of `seq`, without duplicates; None if it has no files.

        Args:
            columns: Columns besides `seq`; all if None.
            where: Filter of rows.
            since: Earliest event time, seconds since the epoch; folders of earlier days are not
                opened.
            schema: Columns of the table, null in files that lack them; the first file's if None.

        Raises:
            OSError: S3 did not answer.
        """
        for _ in range(_READ_ATTEMPTS - 1):
            with suppress(FileNotFoundError):
                return self.read_files(self.files(table, since), columns, where, since, schema)
        # A compaction replaced files between listing and opening them, each time.
        return self.read_files(self.files(table, since), columns, where, since, schema)

    def read_files(
        self,
        files: list[str],
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        since: float = 0.0,
        schema: pa.Schema | None = None,
    ) -> pa.Table | None:
        """`read` of some of a table's files; None without files."""
        if not files:
            return None
        if since:
            where = not_before(since) if where is None else not_before(since) & where
        source = ds.dataset(files, schema, filesystem=self.filesystem, format="parquet")
        wanted = None if columns is None else list(dict.fromkeys(["seq", *columns]))
        return _deduplicated(source.to_table(columns=wanted, filter=where))

    def files(self, table: str, since: float = 0.0, until: float = LAST) -> list[str]:
        """Sorted paths of a table's files, with the bucket, of the days of two event times.

        A file without a date is of all days.

        Args:
            since: The earliest, seconds.
            until: The latest, seconds.
        """
        first, last = (f"{_utc(time):%Y-%m-%d}" for time in (since, until))
        paths = [info.path for info in self.infos(table)]
        return [path for path in paths if first <= partition_date(path, first) <= last]

    def infos(self, table: str) -> list[FileInfo]:
        """A table's files with size and time, sorted by path."""
        selector = FileSelector(f"{self.bucket}/{table}", recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted((f for f in found if f.type == FileType.File), key=lambda f: f.path)

    def put(self, path: str, data: bytes) -> None:
        """Write an object of the bucket. OSError if S3 did not store it."""
        with self.filesystem.open_output_stream(f"{self.bucket}/{path}") as out:
            out.write(data)

    def get(self, path: str, max_bytes: int | None = None) -> bytes:
        """Read an object of the bucket, or its first `max_bytes`.

        Raises:
            FileNotFoundError: it does not exist.
            OSError: S3 does not answer.
        """
        with self.filesystem.open_input_stream(f"{self.bucket}/{path}") as source:
            return bytes(source.read(max_bytes))

    def exists(self, path: str) -> bool:
        """Whether an object of the bucket exists."""
        info = self.filesystem.get_file_info(f"{self.bucket}/{path}")
        return bool(info.type == FileType.File)

    def remove(self, tables: Iterable[str]) -> None:
        """Delete whole tables."""
        for table in tables:
            for file in self.files(table):
                self.filesystem.delete_file(file)

    def put_table(self, path: str, rows: pa.Table) -> int:
        """Write rows as a Parquet file of the bucket. Returns its size. OSError if S3 did not."""
        sink = io.BytesIO()
        # Dictionaries of numbers made the log of states 9% larger and a third slower to write.
        pq.write_table(
            rows,
            sink,
            compression="zstd",
            compression_level=1,
            row_group_size=_ROWS_PER_GROUP,
            use_dictionary=[f.name for f in rows.schema if pa.types.is_string(f.type)],
        )
        self.put(path, sink.getvalue())
        return sink.tell()

    def delete(self, path: str) -> None:
        """Delete a file that `files` listed; one that is gone is no error."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(path)


class IncrementalReader:
    """A table's newest rows, kept in memory: each call opens only the files written since the last.

    Batches of a few seconds make many small files, and opening them dominates the cost.
    """

    def __init__(
        self,
        lake: Lake,
        table: str,
        columns: list[str],
        where: pc.Expression | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            columns: Columns besides `seq` and `event_time`.
            where: Filter of rows.
            schema: Columns of the table, null in files that lack them; the first file's if None.
        """
        self._lake = lake
        self._table = table
        self._columns = ["event_time", *columns]
        self._where = where
        self._schema = schema
        self._opened: set[str] = set()
        self._rows: pa.Table | None = None

    def rows(self, since: float, wanted: pc.Expression | None = None) -> pa.Table | None:
        """Deduplicated rows with event times from `since` (seconds) on, in order of `seq`; or None.

        Other rows are discarded, so a later call must not want more.

        Args:
            since: Earliest event time.
            wanted: A further filter.

        Raises:
            OSError: S3 did not answer; retry.
        """
        keep = not_before(since) if wanted is None else not_before(since) & wanted
        where = keep if self._where is None else keep & self._where
        for attempt in range(_READ_ATTEMPTS):
            files = self._lake.files(self._table, since)
            unread = [file for file in files if file not in self._opened]
            try:
                rows = self._lake.read_files(unread, self._columns, where, schema=self._schema)
                break
            except FileNotFoundError:
                # A compaction replaced a file after it was listed.
                if attempt == _READ_ATTEMPTS - 1:
                    raise
        parts = [part for part in (self._rows, rows) if part is not None]
        if parts:
            self._rows = _deduplicated(pa.concat_tables(parts).filter(keep))
        self._opened = set(files)
        return self._rows


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def not_before(seconds: float) -> pc.Expression:
    """A filter: rows with an event time from `seconds` since the epoch on."""
    return pc.field("event_time") >= pa.scalar(_utc(seconds), pa.timestamp("us", tz="UTC"))


def partition_date(path: str, without: str = "9999-12-31") -> str:
    """The date of a file's folder.

    Args:
        without: Returned where it has none; a date after all others.

    >>> partition_date("lake/x/date=2026-03-01/a.parquet"), partition_date("lake/x/a.parquet")
    ('2026-03-01', '9999-12-31')
    """
    match = _DATE.search(path)
    return match[1] if match else without


def _deduplicated(rows: pa.Table) -> pa.Table:
    """Rows in order of `seq`, keeping the first of each.

    >>> _deduplicated(pa.table({"seq": [2, 1, 2], "x": ["a", "b", "c"]}))["x"].to_pylist()
    ['b', 'a']
    """
    seq = rows["seq"].to_numpy()
    order = np.argsort(seq, kind="stable")
    ordered = seq[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    if first.all() and (seq == ordered).all():
        return rows
    return rows.take(pa.array(order[first]))
