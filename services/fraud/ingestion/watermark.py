"""What time it is: a watermark for each feed, which a few events cannot move (ADR 18).

The newest event time is not a clock. One transaction dated today, in a data set that plays 2022,
would close every open dispute window. The watermark of a feed is the event time that a number of
its transactions have reached.

The times of all transactions are needed for that. `FeedTimes` takes them range by range; of more
than `MAX_EXACT` it keeps how many there were in each minute.
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
from services.fraud.ingestion.columns import seconds

log = logging.getLogger(__name__)

# The feed of events without one.
DEFAULT_FEED = ""
# Transactions that must have reached a time: at least these, and half of a usual day's.
MIN_SUPPORT = 50
SUPPORT_DAYS = 0.5
# Times that are kept to the microsecond: 28 bytes each while they are added up.
MAX_EXACT = 3_000_000
_MINUTE_US = 60_000_000

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


def per_feed(values: Mapping[str, float], names: pa.Array, default: float) -> _Floats:
    """(K,) the value of each of K feeds, `default` for one without."""
    return np.array([values.get(name, default) for name in names.to_pylist()])


def _clocks(
    time: _Floats, count: _Integers | None, codes: _Integers, names: pa.Array
) -> dict[str, FeedClock]:
    """The clock of each feed that has one. Arguments (N,) as of `feed_clock`, and the feeds."""
    found = {}
    for code, of in _by_code(codes, len(names)):
        clock = feed_clock(time[of], None if count is None else count[of])
        if clock is not None:
            found[names[code].as_py()] = clock
    return found


class FeedTimes:
    """The event times of transactions by feed, taken range by range, for the feeds' clocks.

    Attributes:
        exact: Whether all of them are known to the microsecond; otherwise to the minute before.
    """

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self.exact = True

    def add(self, rows: pa.Table) -> None:
        """Take transactions: `event_time`, and `feed` if known."""
        codes, names = feed_codes(rows)
        feed = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names.cast(pa.string()))
        time = rows["event_time"].cast(pa.int64())
        count = pa.array(np.ones(len(rows), dtype=np.int64))
        self._parts.append(pa.table({"feed": feed, "time": time, "count": count}))
        if sum(map(len, self._parts)) > MAX_EXACT:
            self._parts, self.exact = [self._by_minute()], False

    def clocks(self) -> dict[str, FeedClock]:
        """By name, the clock of each feed that has one."""
        if not self._parts:
            return {}
        codes, names, time, count = self._columns()
        return _clocks(time, None if self.exact else count, codes, names)

    def counts(self, windows: Mapping[str, tuple[float, float]]) -> int:
        """Number of transactions with an event time within their feed's window [begin, end)."""
        if not self._parts:
            return 0
        codes, names, time, count = self._columns()
        begin = per_feed({name: window[0] for name, window in windows.items()}, names, np.inf)
        end = per_feed({name: window[1] for name, window in windows.items()}, names, -np.inf)
        return int(count[(time >= begin[codes]) & (time < end[codes])].sum())

    def _columns(self) -> tuple[_Integers, pa.Array, _Floats, _Integers]:
        """The feeds of N times as numbers, their names, (N,) seconds, (N,) how often."""
        rows = pa.concat_tables(self._parts).unify_dictionaries().combine_chunks()
        feed = rows["feed"].combine_chunks()
        return (
            feed.indices.to_numpy(),
            feed.dictionary,
            seconds(rows["time"].to_numpy()),
            rows["count"].to_numpy(),
        )

    def _by_minute(self) -> pa.Table:
        rows = pa.concat_tables(self._parts).unify_dictionaries()
        minute = pa.array(rows["time"].to_numpy() // _MINUTE_US * _MINUTE_US)
        floored = rows.set_column(1, "time", minute)
        # Grouping knows no dictionaries of several chunks.
        plain = floored.set_column(0, "feed", floored["feed"].cast(pa.string()))
        summed = plain.group_by(["feed", "time"]).aggregate([("count", "sum")])
        return pa.table(
            {
                "feed": summed["feed"].combine_chunks().dictionary_encode(),
                "time": summed["time"],
                "count": summed["count_sum"],
            }
        )


def feed_clock(time: _Floats, count: _Integers | None = None) -> FeedClock | None:
    """The clock of one feed's event times (N,), seconds; None while there are too few.

    Transactions far from the others are found by a first estimate and left out of the second, so
    that they change nothing, not even the usual number a day.

    Args:
        count: (N,) transactions at each time; None: one.
    """
    estimate = _supported(time, count)
    if estimate is None:
        return None
    first, last, lead = estimate
    oldest, newest = float(time.min()), float(time.max())
    if first - lead <= oldest and newest <= last + lead:
        return FeedClock(begin=oldest, watermark=last, newest=newest)
    is_near = (time >= first - lead) & (time <= last + lead)
    near = time[is_near]
    supported = _supported(near, None if count is None else count[is_near])
    if supported is None:
        return None
    watermark = supported[1]
    ahead = _number(time > last + lead, count)
    return FeedClock(
        begin=float(near.min()),
        watermark=watermark,
        newest=float(near.max()),
        ahead=ahead,
        ahead_s=newest - watermark if ahead else 0.0,
        behind=_number(~is_near, count) - ahead,
    )


def _number(mask: npt.NDArray[np.bool_], count: _Integers | None) -> int:
    return int(np.count_nonzero(mask) if count is None else count[mask].sum())


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


def _supported(time: _Floats, count: _Integers | None) -> tuple[float, float, float] | None:
    """The times that enough rows reach from either end, and how far beyond others may lie."""
    total = len(time) if count is None else int(count.sum())
    if total < MIN_SUPPORT:
        return None
    day = (time * (1.0 / DAY)).astype(np.int64)
    # Few rows may span centuries: the days are counted without a cell for each day between.
    usual = float(np.median(_day_counts(day, count)))
    support = max(MIN_SUPPORT, int(usual * SUPPORT_DAYS))
    if total < support:
        return None
    lead = DAY * max(1.0, 2.0 * support / usual)
    return *_reached(time, count, support, total), lead


def _reached(
    time: _Floats, count: _Integers | None, support: int, total: int
) -> tuple[float, float]:
    """The times that `support` of `total` rows have reached, from the oldest and the newest on."""
    if count is None:
        ordered = np.partition(time, [support - 1, total - support])
        return float(ordered[support - 1]), float(ordered[total - support])
    order = np.argsort(time, kind="stable")
    rank = np.searchsorted(np.cumsum(count[order]), [support, total - support + 1])
    return float(time[order[rank[0]]]), float(time[order[rank[1]]])


def _day_counts(day: _Integers, count: _Integers | None) -> _Integers:
    """Rows of each day that has some."""
    first, last = int(day.min()), int(day.max())
    if last - first < 100_000:
        counts = np.bincount(day - first, count)
        return counts[counts > 0]
    of, counts = np.unique(day, return_counts=True)
    return counts if count is None else np.bincount(np.searchsorted(of, day), count)


def feed_codes(rows: pa.Table) -> tuple[_Integers, pa.Array]:
    """(N,) the number of each row's feed, and the names by number."""
    if "feed" not in rows.column_names or rows["feed"].null_count == len(rows):
        return np.zeros(len(rows), dtype=np.int32), pa.array([DEFAULT_FEED])
    first = rows["feed"][0]
    if not rows["feed"].null_count and pc.all(pc.equal(rows["feed"], first)).as_py():
        return np.zeros(len(rows), dtype=np.int32), pa.array([first.as_py()])
    column = rows["feed"] if not rows["feed"].null_count else rows["feed"].fill_null(DEFAULT_FEED)
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _by_code(codes: _Integers, count: int) -> Iterator[tuple[int, slice | _Integers]]:
    """Each feed with the rows of it; clients may send any number of names."""
    if count == 1:
        yield 0, slice(None)
        return
    sizes = np.bincount(codes, minlength=count)
    ends = np.cumsum(sizes)
    order = np.argsort(codes, kind="stable")
    for code in np.flatnonzero(sizes):
        yield int(code), order[ends[code] - sizes[code] : ends[code]]
