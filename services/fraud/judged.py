"""Decisions and what became of them, for the monitor that reckons their quality and cost."""

from datetime import timedelta

import pandas as pd
from pyarrow import compute as pc

from features.spec import DAY
from monitoring.quality import SHADOWED, Bills, with_challenger
from services.fraud.history import DECISIONS_TABLE, LABELS_TABLE
from services.fraud.problem import DISPUTE_WINDOW_DAYS, Kpi
from services.skeleton.champion import CHAMPION
from services.skeleton.lake import Lake
from services.skeleton.shadow import shadow_table


def judged(lake: Lake, since: float) -> pd.DataFrame | None:
    """Decisions since an event time (seconds) whose dispute window has closed.

    As `monitoring.quality.Bills` wants them; the challenger's are shadow mode's.

    Raises:
        OSError: S3 does not answer.
    """
    asked = ~pc.field("synthetic")
    # Asked twice a minute, mostly for nothing: the times alone tell whether anything has settled.
    times = lake.read(DECISIONS_TABLE, ["event_time"], asked, since)
    if times is None or not len(times):
        return None
    settled = pc.max(times["event_time"]).as_py() - timedelta(days=DISPUTE_WINDOW_DAYS)
    wanted = ["decision_id", "transaction_id", "event_time", "model", "score", "decision",
              "amount_minor"]  # fmt: skip
    closed = asked & (pc.field("event_time") < settled)
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


BILLS = Bills("fraud", judged, Kpi(), DAY)
