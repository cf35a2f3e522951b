"""The log of states: every state after every event, which Feast joins training rows against."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features.aggregation import Backfilled, EventColumns
from features.spec import (
    SEQ,
    SEQ_COLUMN,
    TIME,
    TIME_COLUMN,
    Booleans,
    Floats,
    Integers,
    Key,
    View,
)
from services.platform.storage.lake import Lake

_LOG_ROWS = 200_000


def write_log(lake: Lake, folder: str, events: EventColumns, done: Backfilled, since: float) -> int:
    """Write the log of one state, from event time `since` (seconds) on. Returns its rows.

    `done` must hold the rows before every event. An entity's last state from before `since` is
    logged too, so that a point in time just after finds it.
    """
    count = 0
    for number, rows in enumerate(_log(events, done, since)):
        lake.write(f"{folder}/{done.state.name}", rows, f"part-{number:05d}", partition=False)
        count += rows.num_rows
    return count


def _log(events: EventColumns, done: Backfilled, since: float) -> Iterator[pa.Table]:
    chosen, source, last = _after(done.rows)
    # The state after an event is the state before the entity's next one.
    following = events.time[np.where(last, chosen, source)]
    keep = (events.time[chosen] >= since) | last | (following >= since)
    chosen, source, last = chosen[keep], source[keep], last[keep]
    for begin in range(0, len(chosen), _LOG_ROWS):
        part = slice(begin, begin + _LOG_ROWS)
        rows = done.rows[chosen[part]]
        after = np.where(last[part, None], done.table[rows], done.before[source[part]])
        yield _table(events, done, chosen[part], rows, after)


def _after(rows: Integers) -> tuple[Integers, Integers, Booleans]:
    """(events, next event of the same entity, whether there is none), in stream order."""
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    entity = rows[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = entity[1:] != entity[:-1]
    source = np.where(last, order, np.roll(order, -1))
    back = np.argsort(order, kind="stable")
    return order[back], source[back], last[back]


def _table(
    events: EventColumns, done: Backfilled, chosen: Integers, rows: Integers, after: Floats
) -> pa.Table:
    columns = {
        key: pa.array(np.array([k[i] for k in done.keys], dtype=object)).take(pa.array(rows))
        for i, key in enumerate(done.state.keys)
    }
    return _logged(done.state, columns, events.seq[chosen], events.time[chosen], after)


def row_table(view: View, keys: list[Key], rows: Floats) -> pa.Table:
    """Rows of K entities as the log keeps them, dated by themselves."""
    columns = {key: pa.array([k[i] for k in keys], pa.string()) for i, key in enumerate(view.keys)}
    return _logged(view, columns, rows[:, SEQ].astype(np.int64), rows[:, TIME], rows)


def _logged(
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
    """(N, width) rows out of a column of lists, as Feast hands states over.

    An entity never seen (null) is a row of zeros; a null key comes as one NaN and fills its row.
    """
    absent, unseen = np.full(width, np.nan), np.zeros(width)
    rows = [unseen if v is None else v if len(v) == width else absent for v in column]
    return np.concatenate(rows).reshape(len(column), width) if rows else np.zeros((0, width))
