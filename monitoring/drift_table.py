"""The lake's tables of a design's windows, `<design>/drift`: one row a window.

The reasons of declines have windows of their own, in `<design>/drift-reasons`.

Each registered statistic has a column of its name: a list of distances, in order of `columns`. It
is null where the window's reference says nothing about that statistic, and in files written before
the statistic existed.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from monitoring.statistics import STATISTICS
from services.platform.storage.lake import Lake
from services.platform.types import Floats

REASONS = "reasons"


def drift_table(design: str, of: str = "") -> str:
    """The name of the table of a design's decisions, or of its `REASONS`.

    >>> drift_table("fraud"), drift_table("fraud", REASONS)
    ('fraud/drift', 'fraud/drift-reasons')
    """
    return f"{design}/drift-{of}" if of else f"{design}/drift"


def drift_schema() -> pa.Schema:
    """The table's columns, one a statistic."""
    return pa.schema(
        [
            pa.field("seq", pa.int64(), nullable=False),
            pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("rows", pa.int64(), nullable=False),
            pa.field("columns", pa.list_(pa.string()), nullable=False),
            *(pa.field(name, pa.list_(pa.float64())) for name in STATISTICS.all()),
            pa.field("alarms", pa.list_(pa.string()), nullable=False),
        ]
    )


def window_row(
    seq: int,
    begin: datetime,
    model: str,
    rows: int,
    columns: Sequence[str],
    distances: Mapping[str, Floats],
    alarms: Iterable[tuple[str, str]],
) -> dict[str, object]:
    """One window's row.

    Args:
        seq: Sequence of the window's last decision.
        begin: Event time at which the window began.
        model: "candidate:version".
        rows: Decisions in the window.
        columns: (F,) names.
        distances: By statistic, (F,).
        alarms: Detector and column of each finding.
    """
    return {
        "seq": seq,
        "event_time": begin,
        "model": model,
        "rows": rows,
        "columns": list(columns),
        **{name: values.tolist() for name, values in distances.items()},
        "alarms": sorted({f"{detector}:{column}" for detector, column in alarms}),
    }


def write_window(lake: Lake, design: str, row: Mapping[str, object], of: str = "") -> None:
    """Write a row of `window_row` into a design's table. OSError if S3 did not take it."""
    table = pa.Table.from_pylist([dict(row)], schema=drift_schema())
    lake.write(drift_table(design, of), table, f"{row['seq']:012d}")


def read_windows(lake: Lake, design: str, of: str = "", newest: int = 0) -> pa.Table | None:
    """Windows in order of `seq`, or None; files of any age. OSError if S3 did not answer.

    Args:
        newest: How many at most, the newest; 0 for all.
    """
    # A file is a window, and its name the sequence.
    files = sorted(lake.files(drift_table(design, of)), key=lambda path: path.rpartition("/")[2])
    return lake.read_files(files[-newest:], schema=drift_schema())
