"""A table of the lake in order of `seq`, a range of sequences at a time.

`Lake.read` holds a whole table. What folds all events needs them in the stream's order and never
two at once, so it reads ranges: a file's range is in its name (the lake writer and the compaction
put it there) or in its Parquet statistics, and a range opens only the files that overlap it. In
memory are one range and the list of files.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.platform.storage.lake import LAST, Lake, not_before

# <name>-<first sequence>-<last sequence>, and what the compaction adds.
_RANGE = re.compile(r"-(\d{12})-(\d{12})(-[0-9a-f]{8})?\.parquet$")
_ATTEMPTS = 4
_ROWS_AT_ONCE = 100_000
_FILES_AT_ONCE = 64


def sequence_range(path: str) -> tuple[int, int] | None:
    """The first and the last sequence that a file's name tells, None if it tells none.

    >>> sequence_range("lake/t/date=2026-03-01/lake-000000000007-000000000010.parquet")
    (7, 10)
    >>> sequence_range("lake/t/date=2026-03-01/history-00003.parquet")
    """
    match = _RANGE.search(path)
    return (int(match[1]), int(match[2])) if match else None


def name_prefix(path: str) -> str:
    """What comes before the sequences in a file's name: who wrote it.

    >>> name_prefix("lake/t/date=2026-03-01/lake-000000000007-000000000010-0a1b2c3d.parquet")
    'lake'
    """
    return _RANGE.sub("", path.rpartition("/")[2])


@dataclass(frozen=True)
class _File:
    path: str
    first: int
    last: int


class SequenceReader:
    """Reads ranges of a table's sequences.

    Attributes:
        last: The highest sequence that its files may hold, 0 without files.
    """

    def __init__(
        self,
        lake: Lake,
        table: str,
        columns: Sequence[str] | None = None,
        schema: pa.Schema | None = None,
        where: pc.Expression | None = None,
        since: float = 0.0,
        until: float = LAST,
    ) -> None:
        """List the files; those without a range in their name are opened for their statistics.

        Args:
            columns: Columns besides `seq`; all if None.
            schema: See `Lake.read`.
            where: Filter of rows.
            since: Earliest event time, see `Lake.read`.
            until: Folders of later days are not opened, seconds.

        Raises:
            OSError: S3 did not answer.
        """
        self._where = where
        if since:
            self._where = not_before(since) if where is None else not_before(since) & where
        self._days = since, until
        self._lake = lake
        self._table = table
        self._columns = None if columns is None else list(columns)
        self._schema = schema
        self._known: dict[str, _File] = {}
        self.last = 0
        self.refresh()

    def refresh(self) -> None:
        """List the files again."""
        known = self._known
        self._known = {
            path: known.get(path) or self._file(path)
            for path in self._lake.files(self._table, *self._days)
        }
        self.last = max((file.last for file in self._known.values()), default=0)

    def between(self, begin: int, end: int) -> pa.Table | None:
        """Rows of sequences begin + 1 to end, in order, without duplicates; None without files.

        Raises:
            OSError: S3 did not answer.
        """
        return self._between(begin, end, self._columns)

    def parts(self, size: int, begin: int = 0) -> Iterator[pa.Table]:
        """All rows in order, without duplicates: those of `size` sequences at a time.

        Sequences that no file holds are passed over.

        Args:
            begin: Rows up to this sequence are left out.

        Raises:
            OSError: S3 did not answer.
        """
        end, last = begin, self.last_row()
        while end < last:
            following = min(f.first for f in self._known.values() if f.last > end)
            begin = max(end, following - 1)
            end = begin + size
            rows = self.between(begin, end)
            if rows is not None and len(rows):
                yield rows

    def backwards(self, size: int) -> Iterator[pa.Table]:
        """All rows, the newest `size` sequences first; each table is in order, and has rows.

        Raises:
            OSError: S3 did not answer.
        """
        for end in range(self.last, 0, -size):
            rows = self.between(max(end - size, 0), end)
            if rows is not None and len(rows):
                yield rows

    def newest(self, count: int) -> pa.Table | None:
        """The newest `count` rows, in order; None without rows. OSError: S3 did not answer."""
        found: list[pa.Table] = []
        missing = count
        for rows in self.backwards(_ROWS_AT_ONCE):
            found.insert(0, rows[-missing:])
            missing -= len(found[0])
            if not missing:
                break
        return pa.concat_tables(found) if found else None

    def last_row(self) -> int:
        """The highest sequence of a row; 0 without rows. OSError: S3 did not answer."""
        lasts = sorted({f.last for f in self._known.values()}, reverse=True)
        at_once = 1
        while lasts:
            newest, lasts = lasts[:at_once], lasts[at_once:]
            begin = (
                min(f.first for f in self._known.values() if newest[-1] <= f.last <= newest[0]) - 1
            )
            rows = self._between(begin, newest[0], [])
            if rows is not None and len(rows):
                return int(rows["seq"][-1].as_py())
            at_once = min(2 * at_once, _FILES_AT_ONCE)
        return 0

    def _between(self, begin: int, end: int, columns: list[str] | None) -> pa.Table | None:
        where = (pc.field("seq") > begin) & (pc.field("seq") <= end)
        if self._where is not None:
            where &= self._where
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._lake.read_files(self._chosen(begin, end), columns, where,
                                             schema=self._schema)  # fmt: skip
            except FileNotFoundError:
                # A compaction replaced a file after it was listed.
                self.refresh()
        chosen = self._chosen(begin, end)
        return self._lake.read_files(chosen, columns, where, schema=self._schema)

    def _chosen(self, begin: int, end: int) -> list[str]:
        return [f.path for f in self._known.values() if f.last > begin and f.first <= end]

    def _file(self, path: str) -> _File:
        found = sequence_range(path)
        return _File(path, *(found or _statistics(self._lake, path)))


def _statistics(lake: Lake, path: str) -> tuple[int, int]:
    """The first and the last sequence of a file, from the statistics of its row groups."""
    found = pq.read_metadata(path, filesystem=lake.filesystem)
    column = found.schema.names.index("seq")
    groups = [found.row_group(n).column(column).statistics for n in range(found.num_row_groups)]
    known = [one for one in groups if one is not None and one.has_min_max]
    if len(known) < len(groups):
        return 0, 2**62
    return min((one.min for one in known), default=0), max((one.max for one in known), default=0)
