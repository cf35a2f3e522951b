"""The view of drift: the monitors' windows as heat maps, alerts, and where the report is.

Windows are read from the lake, alerts from their stream.
"""

import asyncio
from collections.abc import Sequence

from nats.errors import Error as NatsError
from pydantic import BaseModel

from monitoring.alerts import Alert, newest_alerts
from services.platform.design import Design
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

NEWEST, NEWEST_ALERTS = 24, 8
# Alerts of all designs are in one stream.
_READ_ALERTS = 50


class HeatMap(BaseModel):
    """The newest windows of the newest model.

    Attributes:
        of: "" for the decisions, "reasons" for the first reasons of declines.
        model: "candidate:version".
        windows: (W,) event times at which they begin, oldest first.
        columns: (F,) monitored columns.
        statistics: By statistic, (W, F) distances, null where there is none.
        alarms: (W,) lists of "detector:column".
    """

    of: str
    model: str
    windows: list[str]
    columns: list[str]
    statistics: dict[str, list[list[float | None]]]
    alarms: list[list[str]]


class DriftState(BaseModel):
    """What is known of a design's drift.

    Attributes:
        maps: Of the monitors that have closed a window.
        alerts: The newest, newest first; null if NATS does not answer.
        report_port: Port of the service that serves the newest report, `/reports/newest`.
    """

    maps: list[HeatMap]
    alerts: list[Alert] | None
    report_port: int


async def drift_state(config: Settings, design: Design) -> DriftState:
    """Read windows and alerts. OSError if S3 did not answer."""
    maps, alerts = await asyncio.gather(
        asyncio.to_thread(_heat_maps, config, design), _alerts(config, design.name)
    )
    # A container listens on a port of its own, and is published on the usual one.
    port = design.http.default_port if config.host_by_name else design.http.port(config)
    return DriftState(maps=maps, alerts=alerts, report_port=port)


async def _alerts(config: Settings, design: str) -> list[Alert] | None:
    try:
        nc = await connect(config, "walkthrough")
    except OSError:
        return None
    try:
        found = await newest_alerts(nc.jetstream(), _READ_ALERTS)
    except (NatsError, TimeoutError):
        return None
    finally:
        await nc.close()
    return [alert for alert in found if alert.design == design][:NEWEST_ALERTS]


def _heat_maps(config: Settings, design: Design) -> list[HeatMap]:
    # They bring pyarrow and SciPy, which only this view needs.
    from monitoring.drift_table import REASONS, read_windows
    from services.platform.storage.lake import Lake

    lake, maps = Lake(config), []
    for of in ("", REASONS):
        table = read_windows(lake, design.name, of, NEWEST)
        if table is not None and len(table):
            maps.append(_heat_map(of, table.to_pylist()))
    return maps


def _heat_map(of: str, rows: list[dict[str, object]]) -> HeatMap:
    from monitoring.statistics import STATISTICS

    newest = [row for row in rows if row["model"] == rows[-1]["model"]][-NEWEST:]
    names = [name for name in STATISTICS.all() if any(row[name] for row in newest)]
    columns = list(_items(newest[-1]["columns"]))
    return HeatMap(
        of=of,
        model=str(newest[-1]["model"]),
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
