"""The lake's table of a design's windows, `<design>/drift`: one row a window.

Each registered statistic has a column of its name: a list of distances, in order of `columns`. It
is null where the window's reference says nothing about that statistic, and in files written before
the statistic existed.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from monitoring.drift_monitor import WindowResult
from monitoring.statistics import STATISTICS
from services.platform.storage.lake import Lake


def drift_table(design: str) -> str:
    """The table's name."""
    return f"{design}/drift"


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
    seq: int, begin: datetime, model: str, columns: Sequence[str], result: WindowResult
) -> Mapping[str, object]:
    """One window's row.

    Args:
        seq: Sequence of the window's last decision.
        begin: Event time at which the window began.
        model: "candidate:version".
        columns: (F,) names.
        result: Distances in order of `columns`, and findings.
    """
    return {
        "seq": seq,
        "event_time": begin,
        "model": model,
        "rows": result.rows,
        "columns": list(columns),
        **{name: values.tolist() for name, values in result.distances.items()},
        "alarms": sorted({f"{f.detector}:{f.column}" for f in result.findings}),
    }


def write_window(lake: Lake, design: str, row: Mapping[str, object]) -> None:
    """Write one row of `window_row`. OSError if S3 did not take it."""
    table = pa.Table.from_pylist([dict(row)], schema=drift_schema())
    lake.write(drift_table(design), table, f"{row['seq']:012d}")


def read_windows(lake: Lake, design: str) -> pa.Table | None:
    """All windows in order of `seq`, or None; files of any age. OSError if S3 did not answer."""
    return lake.read(drift_table(design), schema=drift_schema())
