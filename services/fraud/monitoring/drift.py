"""The drift monitor of this design: what it watches, and a window's length.

A window is a day of event time, since no hour is like another. Sums over a month are left out: they
settle for months after the first day of history, and would always be on their way. The model's own
answer is the last column.
"""

from datetime import datetime

import numpy as np
import orjson

from features.spec import DAY, Floats
from monitoring import worker as service
from monitoring.drift_monitor import Windows
from monitoring.reference import Reference
from monitoring.worker import Observed, Watched
from services.fraud.features.states import FEATURES, GROUPS, TABULAR
from services.fraud.ingestion.events import DECISIONS_STREAM
from services.platform.runtime.worker import run_worker
from services.platform.settings import settings
from services.platform.streaming.consumer import Delivered

WATCHED = (
    "amount", "hour_of_day", "cart_items", "cart_highest_price",
    "customer_transactions_1h", "customer_transactions_1d", "customer_mean_amount_1h",
    "customer_mean_amount_1d", "customer_amount_zscore_7d", "customer_amount_ratio_30d",
    "customer_seconds_since_last", "device_transactions_1h", "device_transactions_1d",
    "device_seconds_since_last", "customer_device_is_new", "ip_transactions_1h",
    "ip_transactions_1d", "merchant_transactions_1h", "merchant_transactions_1d",
    "merchant_amount_ratio_30d",
)  # fmt: skip
COLUMNS = (*WATCHED, "score")
_WHERE = np.array([TABULAR.index(name) for name in WATCHED])
# What a decision knows without the online store: the transaction, and not the score, which is of a
# model that saw nothing else.
_UNREAD = np.array([name not in GROUPS["transaction"] for name in COLUMNS])
LEAST_ROWS, MOST_ROWS = 2_000, 40_000


def windows() -> Windows[Observed]:
    """An empty window of a day."""
    return Windows(DAY, LEAST_ROWS, MOST_ROWS)


def observe(message: Delivered) -> Observed | None:
    """One logged decision; None for a load test's.

    Of one that was taken without the online store the transaction counts all the same: an outage
    is minutes of a day, and without them the day would seem to have other hours.
    """
    try:
        event = orjson.loads(message.data)
        if event.get("synthetic") or len(event["features"]) != len(FEATURES):
            return None
        vector = np.array(event["features"], dtype=np.float64)[_WHERE]
        at = datetime.fromisoformat(event["transaction"]["event_time"]).timestamp()
        model = str(event["model"])
        values = np.append(vector, float(event["score"]))
        unread = _UNREAD if event["degraded"] else None
        return Observed(at, int(model.rpartition(":")[2]), model, values, unread=unread)
    except (KeyError, TypeError, ValueError):
        return None  # the lake writer puts it aside, with its reason


def watched_columns(vectors: Floats, score: Floats) -> Floats:
    """(N, F) what is watched of N vectors and their scores."""
    return np.column_stack([vectors[:, _WHERE], score])


def reference(vectors: Floats, score: Floats, time: Floats) -> Reference:
    """What is normal, by training days. ValueError if those are too few."""
    rows = watched_columns(vectors, score)
    day = (time // DAY).astype(np.int64)
    days = [rows[day == number] for number in np.unique(day)]
    return Reference.of(COLUMNS, rows, [d for d in days if len(d) >= LEAST_ROWS])


def main() -> None:
    """Start the monitor."""
    # Not for training, which asks this file for a reference alone.
    from services.fraud.monitoring.quality import BILLS

    config = settings()
    watched = Watched("fraud", DECISIONS_STREAM, observe, windows, BILLS)
    run_worker(config, config.metrics_port + 7, lambda: service.serve(config, watched))


if __name__ == "__main__":
    main()
