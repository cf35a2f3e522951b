"""Which event times of a file are replayed: none of the future, none far from the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import duckdb

from services.fraud.ingestion.events import EARLIEST, EPOCH, microseconds

_DAY_US = 86_400_000_000
# Rows are far from the rest if they are few (at most one in 100 on either side, and one in a file
# of fewer rows) behind a gap that is ten times as long as any gap within the rest, and longer than
# a month. In a file of under 100 rows, where a quiet season looks the same, it must be longer than
# a year.
_FEW = 100
_TIMES = 10
_GAP_US, _SMALL_FILE_GAP_US, _SMALL_FILE_ROWS = 30 * _DAY_US, 365 * _DAY_US, 100

_STRETCHES = f"""
WITH hours AS (
    SELECT min(time_us) AS first_us, max(time_us) AS last_us, count(*) AS n FROM staged
    WHERE time_us BETWEEN ? AND ? GROUP BY time_us // 3600000000
),
shortest AS (
    SELECT CASE WHEN sum(n) < {_SMALL_FILE_ROWS} THEN {_SMALL_FILE_GAP_US} ELSE {_GAP_US} END AS gap
    FROM hours
),
gaps AS (SELECT *, first_us - lag(last_us) OVER (ORDER BY first_us) AS gap FROM hours),
numbered AS (
    SELECT *, count(*) FILTER (WHERE gap > (SELECT gap FROM shortest))
        OVER (ORDER BY first_us) AS stretch
    FROM gaps
)
SELECT min(first_us), max(last_us), sum(n)::BIGINT,
    coalesce(max(gap) FILTER (WHERE gap <= (SELECT gap FROM shortest)), 0)
FROM numbered GROUP BY stretch ORDER BY 1
"""


class Stretch(NamedTuple):
    """Rows without a long gap between them.

    Attributes:
        first_us: Event time of the first, microseconds since the epoch.
        last_us: Event time of the last.
        rows: Number of rows.
        gap_us: Longest gap within; 0 if none is longer than an hour.
    """

    first_us: int
    last_us: int
    rows: int
    gap_us: int


@dataclass(frozen=True)
class TimeBounds:
    """Event times that are replayed, both ends included; microseconds since the epoch."""

    low_us: int
    high_us: int
    now_us: int

    def reason(self, time_us: int) -> str:
        """Why a time outside is left out."""
        if time_us < microseconds(EARLIEST):
            return f"lies before the year {EARLIEST.year}"
        if time_us > self.now_us:
            return "lies in the future"
        before = time_us < self.low_us
        end_us = self.low_us if before else self.high_us
        days = abs(time_us - end_us) // _DAY_US
        return (
            f"lies {days:,} days {'before' if before else 'after'} the rest of the file, which "
            f"{'begins' if before else 'ends'} at {time_of(end_us):%Y-%m-%d %H:%M:%S}; --any-time "
            "replays it too"
        )


def time_of(time_us: int) -> datetime:
    """The UTC time of microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=time_us)


def time_bounds(db: duckdb.DuckDBPyConnection, now: datetime, any_time: bool) -> TimeBounds:
    """The bounds of the rows in the table `staged`.

    Args:
        db: Database with the table; `time_us` is the event time.
        now: Later events have not happened yet.
        any_time: Keep rows that are far from the rest.
    """
    earliest_us, now_us = microseconds(EARLIEST), microseconds(now)
    stretches = db.execute(_STRETCHES, [earliest_us, now_us]).fetchall()
    if any_time or not stretches:
        return TimeBounds(earliest_us, now_us, now_us)
    return TimeBounds(*usual_range([Stretch(*one) for one in stretches]), now_us)


def usual_range(stretches: Sequence[Stretch]) -> tuple[int, int]:
    """First and last event time of the rows that are not far from the rest.

    The largest stretch grows to both sides, over the shorter gap first. It stops at a gap that is
    `_TIMES` as long as any before it if only a few rows lie behind that gap.

    >>> day = 86_400_000_000
    >>> three, one = Stretch(0, 2 * day, 3, day), Stretch(2829 * day, 2829 * day, 1, 0)
    >>> low, high = usual_range([three, one])
    >>> low // day, high // day
    (0, 2)
    """
    rows = sum(one.rows for one in stretches)
    few = min(max(1, rows // _FEW), (rows - 1) // 2)
    low = high = max(range(len(stretches)), key=lambda n: stretches[n].rows)
    longest = stretches[low].gap_us
    while near := [
        (gap, added)
        for gap, added, beyond in _neighbours(stretches, low, high)
        if gap <= _TIMES * longest or beyond > few
    ]:
        gap, added = min(near)
        longest = max(longest, gap, stretches[added].gap_us)
        low, high = min(low, added), max(high, added)
    return stretches[low].first_us, stretches[high].last_us


def _neighbours(stretches: Sequence[Stretch], low: int, high: int) -> list[tuple[int, int, int]]:
    """For each side: the gap, the next stretch, and the number of rows behind the gap."""
    found = []
    if low > 0:
        gap_us = stretches[low].first_us - stretches[low - 1].last_us
        found.append((gap_us, low - 1, sum(one.rows for one in stretches[:low])))
    if high < len(stretches) - 1:
        gap_us = stretches[high + 1].first_us - stretches[high].last_us
        found.append((gap_us, high + 1, sum(one.rows for one in stretches[high + 1 :])))
    return found
