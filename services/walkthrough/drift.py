"""The drift monitor's windows as a heat map."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from services.platform.design import Design
from services.platform.settings import Settings

NEWEST = 24


class HeatMap(BaseModel):
    """The newest windows of the newest model.

    Attributes:
        model: "candidate:version".
        windows: (W,) event times at which they begin, oldest first.
        columns: (F,) monitored columns.
        statistics: By statistic, (W, F) distances, null where there is none.
        alarms: (W,) lists of "detector:column".
    """

    model: str
    windows: list[str]
    columns: list[str]
    statistics: dict[str, list[list[float | None]]]
    alarms: list[list[str]]


def heat_map(config: Settings, design: Design) -> HeatMap:
    """Read the windows from the lake. OSError if S3 did not answer."""
    # They bring pyarrow and SciPy, which only this view needs.
    from monitoring.drift_table import read_windows
    from monitoring.statistics import STATISTICS
    from services.platform.storage.lake import Lake

    table = read_windows(Lake(config), design.name)
    rows: list[Mapping[str, object]] = [] if table is None else table.to_pylist()
    newest = [row for row in rows if row["model"] == rows[-1]["model"]][-NEWEST:] if rows else []
    names = [name for name in STATISTICS.all() if any(row[name] for row in newest)]
    columns = list(_items(newest[-1]["columns"])) if newest else []
    return HeatMap(
        model=str(newest[-1]["model"]) if newest else "",
        windows=[str(row["event_time"]) for row in newest],
        columns=[str(column) for column in columns],
        statistics={
            name: [_distances(row[name], len(columns)) for row in newest] for name in names
        },
        alarms=[[str(alarm) for alarm in _items(row["alarms"])] for row in newest],
    )


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _distances(value: object, width: int) -> list[float | None]:
    found = [x if isinstance(x, float) and x == x else None for x in _items(value)]
    return [*found, *[None] * (width - len(found))][:width]
