"""The lake's labelled transactions, read a range of their stream at a time.

In memory are a range, the transactions that are asked for, and the event times of all (see
`watermark.FeedTimes`). At most `MAX_DAYS` of a feed and about `MAX_ROWS` transactions are read: of
more a sample, see `sample`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import DAY
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import ENTITIES
from services.fraud.ingestion.label_weights import DECIDED_BY, with_decisions
from services.fraud.ingestion.outcomes import SettledRows, settled_until, with_outcomes
from services.fraud.ingestion.tables import (
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.ingestion.watermark import (
    FeedClock,
    FeedTimes,
    feed_codes,
    per_feed,
    warn_of_ahead,
)
from services.fraud.retraining import sample as sampling
from services.fraud.retraining.sample import Sample
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats

# As long as decisions are kept. `MAX_ROWS` of them are 2,700 a day, enough for the days of a drift
# reference (`monitoring.drift.MIN_ROWS`).
MAX_DAYS = 180
_RANGE = 200_000
_COLUMNS = ["event_time", "transaction_id", *ENTITIES, "feed", "amount_minor", "cart"]

log = logging.getLogger(__name__)

# Of a feed's clock, the event times [begin, end), seconds, of the transactions that are wanted.
Window = Callable[[FeedClock], tuple[float, float]]
_Windows = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LabelledTransactions:
    """Labelled transactions that were asked for.

    Attributes:
        settled: The transactions, with their outcome.
        sample: Which of those that there are.
        is_cut: Whether there were more than `MAX_DAYS`.
    """

    settled: SettledRows
    sample: Sample
    is_cut: bool

    @property
    def limits(self) -> dict[str, float]:
        """What the card of a model trained on them says; empty if none were left out."""
        found = {"training_days": float(MAX_DAYS)} if self.is_cut else {}
        if self.sample.is_partial:
            found["training_transactions"] = float(self.sample.total)
            found["training_share_of_frauds"] = self.sample.fraud_share
            found["training_share_of_others"] = self.sample.other_share
        return found


def after(begin: float) -> Window:
    """Transactions with a closed dispute window after an event time, seconds."""
    return lambda clock: (float(np.nextafter(begin, np.inf)), settled_until(clock))


def labelled_transactions(
    lake: Lake, window: Window, last_seq: int = 2**62
) -> LabelledTransactions | None:
    """The lake's labelled transactions of a window of each feed's time, in order of `seq`.

    None while there are no labels.

    Args:
        window: Must end where the feed's dispute windows have closed, see `settled_until`.
        last_seq: Later transactions tell what time it is, and are not read.

    Raises:
        OSError: S3 did not answer.
    """
    if not lake.files(TRANSACTIONS_TABLE) or not lake.files(LABELS_TABLE):
        return None
    times, counted = FeedTimes(), FeedTimes()
    reader = SequenceReader(lake, TRANSACTIONS_TABLE, ["event_time", "feed"], TRANSACTION_SCHEMA)
    for part in reader.parts(_RANGE):
        times.add(part)
        if last_seq < reader.last:
            counted.add(part.filter(pc.field("seq") <= last_seq))
    clocks = times.clocks()
    warn_of_ahead(clocks)
    wanted = {name: window(clock) for name, clock in clocks.items()}
    windows = {
        name: (max(begin, end - MAX_DAYS * DAY), end) for name, (begin, end) in wanted.items()
    }
    total = (counted if last_seq < reader.last else times).counts(windows)
    chosen = Sample.of(lake, total, _earliest(windows), sampling.MAX_ROWS)
    found = LabelledTransactions(
        _read(lake, clocks, windows, chosen, last_seq),
        chosen,
        any(windows[name][0] > max(wanted[name][0], clocks[name].begin) for name in wanted),
    )
    if chosen.is_partial:
        log.warning("%s", chosen)
    if found.is_cut:
        log.warning("only the newest %d days are read", MAX_DAYS)
    return found


def _earliest(windows: _Windows) -> float:
    """The begin of the first window, seconds; 0 without any."""
    return max(min((begin for begin, end in windows.values() if end > begin), default=0.0), 0.0)


def _read(
    lake: Lake, clocks: Mapping[str, FeedClock], windows: _Windows, sample: Sample, last_seq: int
) -> SettledRows:
    rows, counted = _closed(lake, windows, sample, last_seq)
    rows = with_decisions(lake, rows, _earliest(windows))
    with_labels, known, share = with_outcomes(lake, rows, counted)
    labelled = with_labels.drop_columns(DECIDED_BY)
    codes, names = feed_codes(labelled)
    begin = per_feed({name: clock.begin for name, clock in clocks.items()}, names, np.inf)
    until = {name: settled_until(clock) for name, clock in clocks.items()}
    return SettledRows(
        labelled,
        begin[codes],
        per_feed(until, names, -np.inf)[codes],
        clocks,
        share,
        counted[known],
    )


def _closed(
    lake: Lake, windows: _Windows, sample: Sample, last_seq: int
) -> tuple[pa.Table, Floats]:
    """The sampled transactions within their feeds' windows, and (N,) what each counts."""
    parts = [TRANSACTION_SCHEMA.empty_table().select(["seq", *_COLUMNS])]
    counted = [np.ones(0)]
    for part in _transactions(lake, windows, last_seq):
        codes, names = feed_codes(part)
        begin = per_feed({name: one[0] for name, one in windows.items()}, names, np.inf)[codes]
        end = per_feed({name: one[1] for name, one in windows.items()}, names, -np.inf)[codes]
        time = event_times(part)
        within = part.filter(pa.array((time >= begin) & (time < end)))
        is_kept, counts = sample.keep(within)
        parts.append(within.filter(pa.array(is_kept)).select(parts[0].column_names))
        counted.append(counts[is_kept])
    return pa.concat_tables(parts), np.concatenate(counted)


def _transactions(lake: Lake, windows: _Windows, last_seq: int) -> Iterator[pa.Table]:
    if not windows:
        return
    reader = SequenceReader(
        lake,
        TRANSACTIONS_TABLE,
        _COLUMNS,
        TRANSACTION_SCHEMA,
        pc.field("seq") <= last_seq,
        # Whole days; the windows are exact.
        max(_earliest(windows) - 1.0, 0.0),
    )
    yield from reader.parts(_RANGE)
