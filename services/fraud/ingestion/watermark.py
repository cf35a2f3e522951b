"""What time it is: a watermark for each feed, which a few events cannot move (ADR 18).

The newest event time is not a clock. One transaction dated today, in a data set that plays 2022,
would close every open dispute window. The watermark of a feed is the event time that a number of
its transactions have reached.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import DAY
from services.fraud.ingestion.columns import event_times

log = logging.getLogger(__name__)

# The feed of events without one.
DEFAULT_FEED = ""
# Transactions that must have reached a time: at least these, and half of a usual day's.
MIN_SUPPORT = 50
SUPPORT_DAYS = 0.5

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FeedClock:
    """The time of one feed.

    Attributes:
        begin: Its oldest event time, seconds, without transactions far behind the others.
        watermark: The event time, seconds, that enough transactions have reached.
        newest: The newest event time, seconds, without transactions far ahead.
        ahead: Number of transactions that lie far ahead of the others.
        ahead_s: Distance of the farthest from the watermark, seconds; 0 without any.
        behind: Number of transactions that lie far behind the others.
    """

    begin: float
    watermark: float
    newest: float
    ahead: int = 0
    ahead_s: float = 0.0
    behind: int = 0


@dataclass(frozen=True)
class FeedClocks:
    """The times of N rows' feeds.

    Attributes:
        by_feed: By name, the clock of each feed that has one.
        begin: (N,) the begin of each row's feed, seconds; infinite if it has no clock.
        watermark: (N,) the watermark of each row's feed, seconds; -infinite if it has none.
    """

    by_feed: Mapping[str, FeedClock]
    begin: _Floats
    watermark: _Floats


def feed_clocks(rows: pa.Table) -> FeedClocks:
    """The clocks of the feeds of N transactions or decisions: `event_time`, and `feed` if known."""
    time = event_times(rows)
    codes, names = _feeds(rows)
    by_feed = {}
    begin, watermark = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for code, times in _by_code(time, codes, len(names)):
        clock = feed_clock(times)
        if clock is not None:
            by_feed[names[code].as_py()] = clock
            begin[code], watermark[code] = clock.begin, clock.watermark
    return FeedClocks(by_feed, _per_row(begin, codes), _per_row(watermark, codes))


def feed_clock(time: _Floats) -> FeedClock | None:
    """The clock of one feed's event times (N,), seconds; None while there are too few.

    Transactions far from the others are found by a first estimate and left out of the second, so
    that they change nothing, not even the usual number a day.
    """
    estimate = _supported(time)
    if estimate is None:
        return None
    first, last, lead = estimate
    oldest, newest = float(time.min()), float(time.max())
    if first - lead <= oldest and newest <= last + lead:
        return FeedClock(begin=oldest, watermark=last, newest=newest)
    near = time[(time >= first - lead) & (time <= last + lead)]
    supported = _supported(near)
    if supported is None:
        return None
    watermark = supported[1]
    ahead = int(np.count_nonzero(time > last + lead))
    return FeedClock(
        begin=float(near.min()),
        watermark=watermark,
        newest=float(near.max()),
        ahead=ahead,
        ahead_s=newest - watermark if ahead else 0.0,
        behind=len(time) - len(near) - ahead,
    )


def ahead_message(feed: str, clock: FeedClock) -> str:
    """A sentence on a feed's transactions that lie far ahead."""
    return (
        f"feed {feed or '(none)'}: {clock.ahead:,} transactions lie up to "
        f"{clock.ahead_s / DAY:,.0f} days ahead of the others; they count for no window, label or "
        "training until the feed reaches their time. Events of another time need a `feed` of "
        "their own"
    )


def warn_of_ahead(clocks: Mapping[str, FeedClock]) -> None:
    """Log the feeds with transactions far ahead."""
    for feed, clock in clocks.items():
        if clock.ahead:
            log.warning("%s", ahead_message(feed, clock))


def _supported(time: _Floats) -> tuple[float, float, float] | None:
    """The times that enough rows reach from either end, and how far beyond others may lie."""
    if len(time) < MIN_SUPPORT:
        return None
    day = (time * (1.0 / DAY)).astype(np.int64)
    # Few rows may span centuries: the days are counted without a cell for each day between.
    counts = _day_counts(day)
    usual = float(np.median(counts))
    support = max(MIN_SUPPORT, int(usual * SUPPORT_DAYS))
    if len(time) < support:
        return None
    ordered = np.partition(time, [support - 1, len(time) - support])
    lead = DAY * max(1.0, 2.0 * support / usual)
    return float(ordered[support - 1]), float(ordered[len(time) - support]), lead


def _day_counts(day: _Integers) -> _Integers:
    """Rows of each day that has some."""
    first, last = int(day.min()), int(day.max())
    if last - first < 100_000:
        counts = np.bincount(day - first)
        return counts[counts > 0]
    return np.unique(day, return_counts=True)[1]


def _feeds(rows: pa.Table) -> tuple[_Integers, pa.Array]:
    """(N,) the number of each row's feed, and the names by number."""
    if "feed" not in rows.column_names or rows["feed"].null_count == len(rows):
        return np.zeros(len(rows), dtype=np.int32), pa.array([DEFAULT_FEED])
    first = rows["feed"][0]
    if not rows["feed"].null_count and pc.all(pc.equal(rows["feed"], first)).as_py():
        return np.zeros(len(rows), dtype=np.int32), pa.array([first.as_py()])
    column = rows["feed"] if not rows["feed"].null_count else rows["feed"].fill_null(DEFAULT_FEED)
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _per_row(values: _Floats, codes: _Integers) -> _Floats:
    """(N,) the value of each row's feed."""
    return np.broadcast_to(values, len(codes)) if len(values) == 1 else values[codes]


def _by_code(time: _Floats, codes: _Integers, count: int) -> Iterator[tuple[int, _Floats]]:
    """The times of each feed that has enough rows; clients may send any number of names."""
    if count == 1:
        yield 0, time
        return
    sizes = np.bincount(codes, minlength=count)
    ends = np.cumsum(sizes)
    ordered = time[np.argsort(codes, kind="stable")]
    for code in np.flatnonzero(sizes >= MIN_SUPPORT):
        yield int(code), ordered[ends[code] - sizes[code] : ends[code]]
