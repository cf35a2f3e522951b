"""Small flushes into plain Parquet, Delta and Iceberg: what a table format costs (ADR 20).

    python -m venv formats
    formats/bin/pip install numpy deltalake "pyiceberg[pyarrow,sql-sqlite]"
    formats/bin/python benchmarks/table_formats.py --flushes 300

A flush is 36 decisions with 45 features, about what the lake writer has after three seconds of the
demo. Neither format is a dependency of the project, so the script runs by itself. Everything is on
local disk, in a temporary folder; Iceberg's catalogue is SQLite.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

_ROWS, _FEATURES = 36, 45


class Format(Protocol):
    """A way to keep a table."""

    def flush(self, rows: pa.Table) -> None:
        """Append rows."""

    def read(self) -> int:
        """Read all rows. Returns how many there are."""

    def join(self) -> None:
        """Join the small files."""


class Parquet:
    """One file per flush; joined files are written and read back before their parts go."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def flush(self, rows: pa.Table) -> None:
        pq.write_table(rows, self._folder / f"{self._count:06d}.parquet")
        self._count += 1

    def read(self) -> int:
        return len(ds.dataset(self._folder, format="parquet").to_table())

    def join(self) -> None:
        parts = sorted(self._folder.iterdir())
        rows = ds.dataset(self._folder, format="parquet").to_table().sort_by("seq")
        new = self._folder / "joined.parquet"
        pq.write_table(rows, new)
        if len(pq.read_table(new)) != len(rows):
            raise RuntimeError("the joined file differs from its parts")
        for part in parts:
            part.unlink()


class Delta:
    """delta-rs; OPTIMIZE leaves the joined files until VACUUM."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def flush(self, rows: pa.Table) -> None:
        write_deltalake(self._folder, rows, mode="append")

    def read(self) -> int:
        return len(DeltaTable(self._folder).to_pyarrow_table())

    def join(self) -> None:
        DeltaTable(self._folder).optimize.compact()


class Iceberg:
    """pyiceberg, which has no compaction of its own: the table is overwritten with its rows."""

    def __init__(self, folder: Path) -> None:
        self._catalogue = SqlCatalog(
            "local", uri=f"sqlite:///{folder}/catalogue.db", warehouse=f"file://{folder}"
        )
        self._catalogue.create_namespace("lake")
        self._table: Table | None = None

    def flush(self, rows: pa.Table) -> None:
        if self._table is None:
            self._table = self._catalogue.create_table("lake.decisions", rows.schema)
        self._table.append(rows)

    def read(self) -> int:
        return len(self._catalogue.load_table("lake.decisions").scan().to_arrow())

    def join(self) -> None:
        table = self._catalogue.load_table("lake.decisions")
        table.overwrite(table.scan().to_arrow())


FORMATS: dict[str, Callable[[Path], Format]] = {
    "parquet": Parquet, "delta": Delta, "iceberg": Iceberg,
}  # fmt: skip


def decisions(first: int, rng: np.random.Generator) -> pa.Table:
    """A flush of decisions from a sequence on."""
    seq = np.arange(first, first + _ROWS)
    features = {f"f{i}": rng.normal(size=_ROWS) for i in range(_FEATURES)}
    return pa.table({"seq": seq, "id": [f"t{n}" for n in seq], **features})


def measure(make: Callable[[Path], Format], flushes: int) -> dict[str, float]:
    """Processor seconds of each step, and how many files there are after it."""
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(7)
        table, found = make(folder), dict[str, float]()
        parts = [decisions(1 + n * _ROWS, rng) for n in range(flushes)]

        def timed(step: str, run: Callable[[], object]) -> None:
            begin, clock = time.process_time(), time.perf_counter()
            run()
            found[f"{step}_cpu_s"] = round(time.process_time() - begin, 2)
            found[f"{step}_s"] = round(time.perf_counter() - clock, 2)

        timed("flush", lambda: [table.flush(part) for part in parts])
        found["files"] = sum(len(files) for _, _, files in os.walk(folder))
        timed("read", lambda: _all(table, flushes))
        timed("join", table.join)
        found["files_after"] = sum(len(files) for _, _, files in os.walk(folder))
        timed("read_again", lambda: _all(table, flushes))
        return found


def _all(table: Format, flushes: int) -> None:
    if table.read() != flushes * _ROWS:
        raise RuntimeError(f"{type(table).__name__} lost rows")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flushes", type=int, default=300)
    given = parser.parse_args()
    for name, make in FORMATS.items():
        package = {"parquet": "pyarrow", "delta": "deltalake", "iceberg": "pyiceberg"}[name]
        figures = measure(make, given.flushes)
        print(json.dumps({"format": name, "version": version(package), **figures}), flush=True)


if __name__ == "__main__":
    main()
