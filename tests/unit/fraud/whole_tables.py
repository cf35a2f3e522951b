"""What the readers in ranges must give: the same of whole tables in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import label_weights
from services.fraud.ingestion.outcomes import SettledRows, settled_until
from services.fraud.ingestion.watermark import FeedTimes, feed_codes, per_feed


def clocks(rows):
    """By feed, the clock of N transactions or decisions."""
    times = FeedTimes()
    times.add(rows)
    return times.clocks()


def settle(rows, labels, since=0.0):
    """N rows, those whose dispute window has closed, with their outcome.

    Args:
        labels: `transaction_id`, `fraud`. Of several labels the first counts.
        since: Event time, seconds; only later rows count.
    """
    by_feed = clocks(rows)
    codes, names = feed_codes(rows)
    begin = per_feed({name: clock.begin for name, clock in by_feed.items()}, names, np.inf)[codes]
    until = {name: settled_until(clock) for name, clock in by_feed.items()}
    until = per_feed(until, names, -np.inf)[codes]
    time = event_times(rows)
    is_closed = (time > since) & (time < until)
    closed = rows.filter(pa.array(is_closed))
    where = pc.index_in(closed["transaction_id"], labels["transaction_id"])
    known = pc.is_valid(where).to_numpy()
    weight = label_weights(closed, known)
    closed = closed.append_column("fraud", labels["fraud"].take(where))
    closed = closed.append_column("weight", pa.array(weight)).filter(pa.array(known))
    return SettledRows(
        closed,
        begin[is_closed][known],
        until[is_closed][known],
        by_feed,
        pc.mean(labels["fraud"].cast(pa.int8())).as_py(),
        np.ones(len(closed)),
    )
