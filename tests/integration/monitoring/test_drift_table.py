"""The lake's table of windows: files from before a statistic are read beside new ones."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from monitoring.drift_monitor import DriftMonitor
from monitoring.drift_table import drift_table, read_windows, window_row, write_window
from monitoring.reference import Reference
from monitoring.statistics import STATISTICS
from services.platform.storage.lake import Lake

BEFORE = ("psi", "ks", "missing")
AT = datetime(2022, 5, 1, tzinfo=UTC)


@pytest.fixture
def lake(config):
    made = Lake(config)
    made.remove([drift_table("fraud")])
    yield made
    made.remove([drift_table("fraud")])


def write_as_before(lake):
    """A window as the code before `monitoring.drift_table` wrote it."""
    required = [
        ("seq", pa.int64()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("model", pa.string()),
        ("rows", pa.int64()),
        ("columns", pa.list_(pa.string())),
        *((name, pa.list_(pa.float64())) for name in BEFORE),
        ("alarms", pa.list_(pa.string())),
    ]
    schema = pa.schema([pa.field(*field, nullable=False) for field in required])
    row = {"seq": 1, "event_time": AT, "model": "xgboost:1", "rows": 500,
           "columns": ["amount", "score"], "alarms": ["psi:amount"]}  # fmt: skip
    row |= {name: [float(n), 0.5] for n, name in enumerate(BEFORE)}
    lake.write(drift_table("fraud"), pa.Table.from_pylist([row], schema=schema), f"{1:012d}")


def test_old_and_new_windows_are_read_together(lake):
    assert read_windows(lake, "fraud") is None
    write_as_before(lake)
    rng = np.random.default_rng(0)
    windows = [rng.normal(size=(300, 2)) for _ in range(10)]
    names = ("amount", "score")
    reference = Reference.of(names, np.concatenate(windows), windows)
    result = DriftMonitor(reference).check(windows[0])
    row = window_row(2, AT, "xgboost:2", result.rows, names, result.distances, [])
    write_window(lake, "fraud", row)
    old, new = read_windows(lake, "fraud").to_pylist()
    assert (old["seq"], new["seq"]) == (1, 2)
    # A view of the newest opens their files alone.
    assert read_windows(lake, "fraud", newest=1).to_pylist() == [new]
    assert [old[name] for name in BEFORE] == [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]
    assert old["alarms"] == ["psi:amount"]
    for name in STATISTICS.all():
        assert new[name] == result.distances[name].tolist()
        assert name in BEFORE or old[name] is None
