"""The lake: Parquet on S3, one folder a table, partitioned by event date.

Read through pyarrow's S3 client: DuckDB would fetch its own extension at run time, which a closed
network forbids. Every row has a stream sequence, and a table is read once per sequence, so
writing a batch twice does no harm.
"""

import io
import re
import urllib.parse
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType, S3FileSystem

from services.platform.settings import Settings

_DATE = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/")


def until(moment: datetime) -> pc.Expression:
    """Rows whose event time lies before a moment."""
    return pc.field("event_time") < pa.scalar(moment, pa.timestamp("us", tz="UTC"))


class Lake:
    """The lake of one installation. Opening it connects to nothing yet."""

    def __init__(self, settings: Settings, bucket: str = "") -> None:
        """The lake's bucket, or another one of the same store."""
        url = urllib.parse.urlsplit(settings.s3)
        self.bucket = bucket or settings.bucket
        self.filesystem = S3FileSystem(
            access_key=settings.user,
            secret_key=settings.password.get_secret_value(),
            endpoint_override=url.netloc,
            scheme=url.scheme,
            region="us-east-1",
            connect_timeout=3,
            request_timeout=30,
            # A small object is one request, not an upload in three.
            allow_delayed_open=True,
        )

    def write(self, table: str, rows: pa.Table, name: str, partition: bool = True) -> None:
        """Write rows as one file a date; the same name overwrites.

        Raises:
            OSError: S3 did not take it.
        """
        if not partition or not rows.num_rows:
            self._put(f"{table}/{name}.parquet", rows)
            return
        dates = pc.strftime(rows["event_time"], format="%Y-%m-%d")
        for date in pc.unique(dates).to_pylist():
            part = rows.filter(pc.equal(dates, date))
            self._put(f"{table}/date={date}/{name}.parquet", part)

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        since: float = 0.0,
    ) -> pa.Table | None:
        """All rows of a table in order of `seq`, each once; None if it holds nothing yet.

        Args:
            columns: Which columns, all if None. `seq` is always among them.
            where: What rows have to be.
            since: Event time, seconds, of the first rows asked for; folders of days before it are
                not opened.

        Raises:
            OSError: S3 did not answer.
        """
        return self.read_files(self.files(table, since), columns, where, since)

    def read_files(
        self,
        files: list[str],
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        since: float = 0.0,
    ) -> pa.Table | None:
        """The same of some of a table's files; None of none."""
        if not files:
            return None
        if since:
            where = _from(since) if where is None else _from(since) & where
        source = ds.dataset(files, filesystem=self.filesystem, format="parquet")
        wanted = None if columns is None else list(dict.fromkeys(["seq", *columns]))
        return _once(source.to_table(columns=wanted, filter=where))

    def files(self, table: str, since: float = 0.0) -> list[str]:
        """Paths of a table's files, with the bucket, sorted; of days from `since` (seconds) on."""
        selector = FileSelector(f"{self.bucket}/{table}", recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        paths = sorted(f.path for f in found if f.type == FileType.File)
        return [path for path in paths if _day(path) >= f"{_moment(since):%Y-%m-%d}"]

    def put(self, path: str, data: bytes) -> None:
        """Write an object below the bucket. OSError if S3 did not take it."""
        with self.filesystem.open_output_stream(f"{self.bucket}/{path}") as out:
            out.write(data)

    def get(self, path: str) -> bytes:
        """Read an object. FileNotFoundError if there is none."""
        with self.filesystem.open_input_stream(f"{self.bucket}/{path}") as source:
            return bytes(source.read())

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        info = self.filesystem.get_file_info(f"{self.bucket}/{path}")
        return bool(info.type == FileType.File)

    def remove(self, tables: Iterable[str]) -> None:
        """Delete whole tables."""
        for table in tables:
            for file in self.files(table):
                self.filesystem.delete_file(file)

    def _put(self, path: str, rows: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd", compression_level=1)
        self.put(path, sink.getvalue())


class Tail:
    """A table's newest rows, in memory: who looks again opens only the files that have come since.

    Batches of some seconds make many small files, and opening them is what costs.
    """

    def __init__(
        self, lake: Lake, table: str, columns: list[str], where: pc.Expression | None = None
    ) -> None:
        """Read nothing yet.

        Args:
            columns: Which columns, besides `seq` and `event_time`. where: What rows have to be.
        """
        self._lake = lake
        self._table = table
        self._columns = ["event_time", *columns]
        self._where = where
        self._opened: set[str] = set()
        self._rows: pa.Table | None = None

    def rows(self, since: float) -> pa.Table | None:
        """Rows of event times from `since` (seconds) on, each once, in order of `seq`; or None.

        What is older is forgotten: a later call may ask for less, not for more.

        Raises:
            OSError: S3 did not answer; ask again.
        """
        there = self._lake.files(self._table, since)
        fresh = [file for file in there if file not in self._opened]
        found = self._lake.read_files(fresh, self._columns, self._where, since)
        parts = [part for part in (self._rows, found) if part is not None]
        if parts:
            self._rows = _once(pa.concat_tables(parts).filter(_from(since)))
        self._opened = set(there)
        return self._rows


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _from(since: float) -> pc.Expression:
    return pc.field("event_time") >= pa.scalar(_moment(since), pa.timestamp("us", tz="UTC"))


def _day(path: str) -> str:
    """The date of a file's folder; of one that has none, later than any."""
    found = _DATE.search(path)
    return found[1] if found else "9999-12-31"


def _once(rows: pa.Table) -> pa.Table:
    """Rows in order of `seq`, the first of each."""
    seq = rows["seq"].to_numpy()
    order = np.argsort(seq, kind="stable")
    ordered = seq[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return rows.take(pa.array(order[fresh]))
