"""The drift monitor of this design: the columns that it monitors, and a window's length.

A window is a day of event time, because hours differ from each other. Sums over a month are left
out: they take months to settle after the first day of data, and would drift all that time. The
model's score is the last column.
"""

import numpy as np
import orjson

from features.spec import DAY
from monitoring import worker as service
from monitoring.reference import Reference
from monitoring.window_cutter import WindowCutter
from monitoring.window_watcher import MonitorSpec, Observation
from services.fraud.features.decisions import is_current
from services.fraud.features.states import FEATURES, GROUPS, TABULAR
from services.fraud.ingestion.events import DECISIONS_STREAM, event_time_of
from services.fraud.problem import DESIGN
from services.platform.models.names import label_version
from services.platform.settings import Settings
from services.platform.streaming.consumer import Message
from services.platform.types import Floats

MONITORED_FEATURES = (
    "amount", "hour_of_day", "cart_items", "cart_highest_price",
    "customer_transactions_1h", "customer_transactions_1d", "customer_mean_amount_1h",
    "customer_mean_amount_1d", "customer_amount_zscore_7d", "customer_amount_ratio_30d",
    "customer_seconds_since_last", "device_transactions_1h", "device_transactions_1d",
    "device_seconds_since_last", "customer_device_is_new", "ip_transactions_1h",
    "ip_transactions_1d", "merchant_transactions_1h", "merchant_transactions_1d",
    "merchant_amount_ratio_30d",
)  # fmt: skip
COLUMNS = (*MONITORED_FEATURES, "score")
_FEATURE_INDICES = np.array([TABULAR.index(name) for name in MONITORED_FEATURES])
# Columns that a degraded decision leaves out: all but the transaction's, because the others come
# from the rows read last, if any; the score too, because it is the fallback's.
_UNREAD = np.array([name not in GROUPS["transaction"] for name in COLUMNS])
MIN_ROWS, MAX_ROWS = 2_000, 40_000


def new_windows() -> WindowCutter[Observation]:
    """An empty window of a day."""
    return WindowCutter(DAY, MIN_ROWS, MAX_ROWS)


def observe(message: Message) -> Observation | None:
    """One logged decision; None for a load test's, another feature set's, and an unreadable one.

    A decision that was taken without the online store counts by its transaction: without the
    minutes of an outage, the day's `hour_of_day` would drift.
    """
    try:
        event = orjson.loads(message.data)
        if event.get("synthetic") or not is_current(event.get("feature_set")):
            return None
        if len(event["features"]) != len(FEATURES):
            return None
        vector = np.array(event["features"], dtype=np.float64)[_FEATURE_INDICES]
        transaction = event["transaction"]
        at = event_time_of(transaction["event_time"]).timestamp()
        feed = str(transaction.get("feed") or "")
        model = str(event["model"])
        values = np.append(vector, float(event["score"]))
        unread = _UNREAD if event["degraded"] else None
        return Observation(at, label_version(model), model, values, unread=unread, feed=feed)
    except (KeyError, TypeError, ValueError):
        return None


def monitored_columns(vectors: Floats, score: Floats) -> Floats:
    """(N, F) monitored columns, the score last.

    Args:
        vectors: (N, all features).
        score: (N,).
    """
    return np.column_stack([vectors[:, _FEATURE_INDICES], score])


def reference(rows: Floats, time: Floats) -> Reference:
    """What is normal, with training days as clean windows.

    Args:
        rows: (N, F) `monitored_columns` of training.
        time: (N,) event times, seconds.

    Raises:
        ValueError: there are too few days.
    """
    day = (time // DAY).astype(np.int64)
    days = [rows[day == number] for number in np.unique(day)]
    return Reference.of(COLUMNS, rows, [d for d in days if len(d) >= MIN_ROWS])


async def main(config: Settings) -> None:
    """Run until cancelled."""
    # Not for training, which needs nothing of this module but the reference.
    from services.fraud.monitoring.quality import QUALITY_SPEC

    await service.serve(
        config, MonitorSpec(DESIGN, DECISIONS_STREAM, observe, new_windows, QUALITY_SPEC)
    )
