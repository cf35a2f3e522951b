"""The state log: each state after each event. Feast joins training rows with it.

Rows of different declarations of a state are in different folders, so they are never mixed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features.aggregation import BackfilledState, EventColumns
from features.spec import SEQ, SEQ_COLUMN, TIME, TIME_COLUMN, Key, View
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats, Integers

_ROWS_PER_FILE = 200_000


def log_folder(view: View) -> str:
    """The folder of a view's log, below that of all logs."""
    return view.name if view.hash == view.first_hash else f"{view.name}-{view.hash}"


def write_log(
    lake: Lake,
    folder: str,
    events: EventColumns,
    result: BackfilledState,
    since: float,
    name: str = "part",
) -> int:
    """Write the log of one state from event time `since` (seconds) on. Returns the row count.

    `result` must have a snapshot for every event. An entity's last state before `since` is logged
    too, so that a point in time shortly after `since` finds it.

    Args:
        folder: Folder of all logs.
        name: How the files' names begin.
    """
    count = 0
    for number, rows in enumerate(log_tables(events, result, since)):
        where = f"{folder}/{log_folder(result.state)}"
        lake.write(where, rows, f"{name}-{number:05d}", partition=False)
        count += rows.num_rows
    return count


def log_tables(events: EventColumns, result: BackfilledState, since: float) -> Iterator[pa.Table]:
    """The log's rows of one state, as `write_log` writes them, in order of their sequences."""
    chosen, following, last = _next_events(result.rows)
    # The state after an event is the snapshot before the entity's next event.
    following_time = events.time[np.where(last, chosen, following)]
    keep = (events.time[chosen] >= since) | last | (following_time >= since)
    chosen, following, last = chosen[keep], following[keep], last[keep]
    for begin in range(0, len(chosen), _ROWS_PER_FILE):
        part = slice(begin, begin + _ROWS_PER_FILE)
        rows = result.rows[chosen[part]]
        after = result.snapshots[following[part]]
        after[last[part]] = result.table[rows[last[part]]]
        yield _event_table(events, result, chosen[part], rows, after)


def _next_events(rows: Integers) -> tuple[Integers, Integers, Booleans]:
    """(events, next event of the same entity, whether it is the last), in stream order."""
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    entity = rows[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = entity[1:] != entity[:-1]
    following = np.where(last, order, np.roll(order, -1))
    back = np.argsort(order, kind="stable")
    return order[back], following[back], last[back]


def _event_table(
    events: EventColumns, result: BackfilledState, chosen: Integers, rows: Integers, after: Floats
) -> pa.Table:
    columns = {
        key: pa.array(np.array([k[i] for k in result.keys], dtype=object)).take(pa.array(rows))
        for i, key in enumerate(result.state.keys)
    }
    return _log_table(result.state, columns, events.seq[chosen], events.time[chosen], after)


def row_table(view: View, keys: list[Key], rows: Floats) -> pa.Table:
    """Log rows of K entities, with the sequence and time of the rows (K, width) themselves."""
    columns = {key: pa.array([k[i] for k in keys], pa.string()) for i, key in enumerate(view.keys)}
    return _log_table(view, columns, rows[:, SEQ].astype(np.int64), rows[:, TIME], rows)


def _log_table(
    view: View, columns: dict[str, pa.Array], seq: Integers, time: Floats, rows: Floats
) -> pa.Table:
    width = view.width
    offsets = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int32)
    time_us = np.rint(time * 1e6).astype(np.int64)
    return pa.table(
        {
            **columns,
            SEQ_COLUMN: seq,
            TIME_COLUMN: pa.array(time_us).cast(pa.timestamp("us", tz="UTC")),
            view.name: pa.ListArray.from_arrays(offsets, rows.reshape(-1)),
        }
    )


def stack(column: "pd.Series[Any]", width: int) -> Floats:
    """Stack a column of N lists, as Feast returns states, to rows (N, width).

    None (an entity without events) becomes a row of zeros. A list of one NaN (a null key) becomes
    a row of NaN.

    Raises:
        ValueError: a list is of another length.
    """
    null_key, no_events = np.full(width, np.nan), np.zeros(width)
    rows = [no_events if v is None else null_key if len(v) == 1 else v for v in column]
    return np.concatenate(rows).reshape(len(column), width) if rows else np.zeros((0, width))
