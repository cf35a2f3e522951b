"""Compaction: the many small files of a date become few large ones.

The lake writer writes one file per flush, every few seconds, so that rows can be read soon. A
reader pays for each file: a month at demo rates is 10,000 files a table. Compaction joins the files
of one table and date, in order of their sequences, up to `TARGET_BYTES`.

Rows are in the lake at every moment: the large file is written and read back before its parts go,
and readers keep one row per sequence, so that both may be there at once. Killed in between, the
parts stay, and the next compaction joins them again. The parts are removed after a pause: a listing
that is under way sees the parts or the large file. A reader that listed a part before it went lists
again (`Lake.read`, `IncrementalReader`, `SequenceReader`).

Only files that are named by their sequences are joined: history and the state log are large as
they are written. New files wait: readers that follow the newest files have opened them by then.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo

from services.platform.progress import ProgressCallback
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import name_prefix, sequence_range

# Compressed.
TARGET_BYTES = 64 * 2**20
MIN_AGE_S = 300.0
# Readers that have listed a part should have opened it by then; later ones list again.
PAUSE_S = 15.0


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        files_before: By table, its files before.
        files_after: By table, its files after.
        rows: Rows in the files that were written.
        bytes_read: Size of the parts.
        bytes_written: Size of what replaced them.
    """

    files_before: dict[str, int] = field(default_factory=dict)
    files_after: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(frozen=True)
class _Group:
    """Files of one table and folder that become one."""

    table: str
    parts: Sequence[FileInfo]

    @property
    def path(self) -> str:
        """Where the large file goes, within the bucket; the same parts give the same name."""
        ranges = [found for part in self.parts if (found := sequence_range(part.path))]
        first, last = min(r[0] for r in ranges), max(r[1] for r in ranges)
        names = "\n".join(sorted(part.path for part in self.parts))
        mark = hashlib.sha256(names.encode()).hexdigest()[:8]
        folder = PurePosixPath(self.parts[0].path).parent.as_posix().partition("/")[2]
        return f"{folder}/{name_prefix(self.parts[0].path)}-{first:012d}-{last:012d}-{mark}.parquet"


def compact(
    lake: Lake,
    schemas: Mapping[str, pa.Schema | None],
    step: ProgressCallback,
    min_age_s: float = MIN_AGE_S,
    pause_s: float = PAUSE_S,
) -> Compacted:
    """Join the small files of some tables. What was begun and not ended is ended.

    Args:
        schemas: By table, its columns, null in files that lack them; the first file's if None.
        step: Called with files joined so far, and of how many.
        min_age_s: Files younger than this are left alone.
        pause_s: Between writing the large files and removing their parts.

    Raises:
        OSError: S3 did not answer; what was not removed is joined again by the next run.
    """
    listed = {table: lake.infos(table) for table in schemas}
    groups = [g for table, found in listed.items() for g in _groups(table, found, min_age_s)]
    total, done, rows, written = sum(len(g.parts) for g in groups), 0, 0, 0
    step(0, total)
    for group in groups:
        count, size = _join(lake, group, schemas[group.table])
        rows, written, done = rows + count, written + size, done + len(group.parts)
        step(done, total)
    if groups:
        time.sleep(pause_s)
    for group in groups:
        for part in group.parts:
            lake.delete(part.path)
    return Compacted(
        files_before={table: len(found) for table, found in listed.items()},
        files_after={table: len(lake.files(table)) for table in schemas},
        rows=rows,
        bytes_read=sum(part.size for g in groups for part in g.parts),
        bytes_written=written,
    )


def _groups(table: str, files: Sequence[FileInfo], min_age_s: float) -> Iterator[_Group]:
    """The files to join, folder by folder and in order of their sequences."""
    newest = datetime.now(UTC) - timedelta(seconds=min_age_s)
    folders: dict[tuple[str, str], list[FileInfo]] = defaultdict(list)
    for file in files:
        if sequence_range(file.path) and file.size < TARGET_BYTES and file.mtime <= newest:
            folder = PurePosixPath(file.path).parent.as_posix()
            folders[folder, name_prefix(file.path)].append(file)
    for found in folders.values():
        found.sort(key=lambda file: sequence_range(file.path) or (0, 0))
        parts: list[FileInfo] = []
        for file in found:
            if parts and sum(part.size for part in parts) + file.size > TARGET_BYTES:
                yield from _group(table, parts)
                parts = []
            parts.append(file)
        yield from _group(table, parts)


def _group(table: str, parts: list[FileInfo]) -> Iterator[_Group]:
    if len(parts) > 1:
        yield _Group(table, list(parts))


def _join(lake: Lake, group: _Group, schema: pa.Schema | None) -> tuple[int, int]:
    """Write the large file and read its row count back. Returns its rows and bytes."""
    rows = lake.read_files([part.path for part in group.parts], schema=schema)
    if rows is None:
        raise FileNotFoundError(group.path)
    size = lake.put_table(group.path, rows)
    stored = pq.read_metadata(f"{lake.bucket}/{group.path}", filesystem=lake.filesystem).num_rows
    if stored != len(rows):
        raise OSError(f"{group.path}: {stored} rows were stored of {len(rows)}")
    return len(rows), size
