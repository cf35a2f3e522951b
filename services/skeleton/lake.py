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

from services.skeleton.settings import Settings

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
        from_on = datetime.fromtimestamp(since, UTC)
        files = [f for f in self.files(table) if _day(f) >= f"{from_on:%Y-%m-%d}"]
        if not files:
            return None
        if since:
            newer = pc.field("event_time") >= pa.scalar(from_on, pa.timestamp("us", tz="UTC"))
            where = newer if where is None else newer & where
        source = ds.dataset(files, filesystem=self.filesystem, format="parquet")
        wanted = None if columns is None else list(dict.fromkeys(["seq", *columns]))
        return _once(source.to_table(columns=wanted, filter=where))

    def files(self, table: str) -> list[str]:
        """Paths of a table's files, with the bucket, sorted."""
        selector = FileSelector(f"{self.bucket}/{table}", recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(f.path for f in found if f.type == FileType.File)

    def days(self, table: str) -> list[datetime]:
        """The dates a table has rows of, sorted, by its folders alone."""
        found = {match[1] for file in self.files(table) if (match := _DATE.search(file))}
        return [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in sorted(found)]

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
