"""Decisions and what became of them, for the monitor that reckons their quality and cost."""

from datetime import datetime, timedelta

import pandas as pd
from pyarrow import compute as pc

from features.spec import DAY
from monitoring.quality import SHADOWED, Bills, with_challenger
from services.fraud.history import DECISIONS_TABLE, LABELS_TABLE
from services.fraud.problem import DISPUTE_WINDOW_DAYS, Kpi
from services.skeleton.champion import CHAMPION
from services.skeleton.lake import Lake
from services.skeleton.shadow import shadow_table

# Load tests say what they are, and nobody disputes them.
_REAL = ~pc.field("synthetic")


def judged(lake: Lake, since: float) -> pd.DataFrame | None:
    """Decisions since an event time (seconds) whose dispute window has closed.

    As `monitoring.quality.Bills` wants them; the challenger's are shadow mode's.

    Raises:
        OSError: S3 does not answer.
    """
    settled = _settled(lake)
    if settled is None:
        return None
    wanted = ["decision_id", "transaction_id", "event_time", "model", "score", "decision",
              "amount_minor"]  # fmt: skip
    closed = _REAL & (pc.field("event_time") < settled)
    decisions = lake.read(DECISIONS_TABLE, wanted, closed, since)
    if decisions is None or not len(decisions):
        return None
    labels = lake.read(LABELS_TABLE, ["transaction_id", "fraud"], since=since)
    if labels is None:
        return None
    made = decisions.to_pandas().drop_duplicates("decision_id")
    told = labels.select(["transaction_id", "fraud"]).to_pandas().drop_duplicates("transaction_id")
    made = made.merge(told, on="transaction_id")
    made = made.rename(columns={"fraud": "positive", "amount_minor": "amount"})
    made = made.assign(role=CHAMPION, stopped=made["decision"] == "decline")
    shadow = lake.read(shadow_table("fraud"), SHADOWED, since=since)
    return with_challenger(made, shadow, "decision_id")


def _settled(lake: Lake) -> datetime | None:
    """Until when disputes have closed; None while none has.

    Asked twice a minute, mostly for nothing: the folders and the newest day alone tell.
    """
    days = lake.days(DECISIONS_TABLE)
    for day in reversed(days):
        newest = lake.read(DECISIONS_TABLE, ["event_time"], _REAL, since=day.timestamp())
        if newest is not None and len(newest):
            until: datetime = pc.max(newest["event_time"]).as_py()
            until -= timedelta(days=DISPUTE_WINDOW_DAYS)
            return until if until > days[0] else None
    return None


BILLS = Bills("fraud", judged, Kpi(), DAY)
