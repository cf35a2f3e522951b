"""Decisions and what became of them, for the monitor that reckons their quality and cost."""

import pandas as pd
from pyarrow import compute as pc

from features.spec import DAY
from monitoring.quality import SHADOWED, Bills, with_challenger
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE, REAL
from services.fraud.problem import DISPUTE_WINDOW_DAYS, Kpi
from services.platform.models.served_model import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import Lake, Tail

_WANTED = ["decision_id", "transaction_id", "model", "score", "decision", "amount_minor"]


class Judged:
    """Decisions whose dispute window has closed; the challenger's are shadow mode's."""

    def __init__(self, lake: Lake) -> None:
        self._decisions = Tail(lake, DECISIONS_TABLE, _WANTED, REAL)
        self._labels = Tail(lake, LABELS_TABLE, ["transaction_id", "fraud"])
        self._shadow = Tail(lake, shadow_table("fraud"), SHADOWED)

    def __call__(self, since: float) -> pd.DataFrame | None:
        """Those since an event time (seconds), as `monitoring.quality.Bills` wants them."""
        decisions = self._decisions.rows(since)
        if decisions is None or not len(decisions):
            return None
        settled = pc.max(decisions["event_time"]).as_py()
        settled -= pd.Timedelta(days=DISPUTE_WINDOW_DAYS)
        closed = decisions.filter(pc.less(decisions["event_time"], settled))
        if not len(closed):
            return None
        # A label comes after its decision; those of the history before the first are not ours.
        first = pc.min(decisions["event_time"]).as_py().timestamp()
        labels = self._labels.rows(max(since, first))
        if labels is None:
            return None
        # Most labels are of decisions whose window is open, and pandas' strings are dear.
        wanted = pc.is_in(labels["transaction_id"], closed["transaction_id"].combine_chunks())
        told = labels.filter(wanted).select(["transaction_id", "fraud"]).to_pandas()
        made = closed.to_pandas().drop_duplicates("decision_id").drop(columns="seq")
        made = made.merge(told.drop_duplicates("transaction_id"), on="transaction_id")
        made = made.rename(columns={"fraud": "positive", "amount_minor": "amount"})
        made = made.assign(role=CHAMPION, stopped=made["decision"] == "decline")
        return with_challenger(made, self._shadow.rows(since), "decision_id")


BILLS = Bills("fraud", Judged, Kpi(), DAY)
