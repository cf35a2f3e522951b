"""Decisions joined with their outcomes, for the monitor of quality and cost."""

import pandas as pd
from pyarrow import compute as pc

from features.spec import DAY
from monitoring.quality import SHADOW_COLUMNS, QualitySpec, with_challenger
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE, NOT_SYNTHETIC
from services.fraud.problem import DISPUTE_WINDOW_DAYS, CostModel
from services.platform.models.names import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import IncrementalReader, Lake

_DECISION_COLUMNS = ["decision_id", "transaction_id", "model", "score", "decision", "amount_minor"]


class OutcomeReader:
    """Decisions whose dispute window has closed; the challenger's scores come from shadow mode."""

    def __init__(self, lake: Lake) -> None:
        self._decisions = IncrementalReader(lake, DECISIONS_TABLE, _DECISION_COLUMNS, NOT_SYNTHETIC)
        self._labels = IncrementalReader(lake, LABELS_TABLE, ["transaction_id", "fraud"])
        self._shadow = IncrementalReader(lake, shadow_table("fraud"), SHADOW_COLUMNS)

    def __call__(self, since: float) -> pd.DataFrame | None:
        """Those since an event time, seconds: see `monitoring.quality.OutcomeReader`."""
        decisions = self._decisions.rows(since)
        if decisions is None or not len(decisions):
            return None
        newest = pc.max(decisions["event_time"]).as_py()
        end = newest - pd.Timedelta(days=DISPUTE_WINDOW_DAYS)
        closed = decisions.filter(pc.less(decisions["event_time"], end))
        if not len(closed):
            return None
        # A label comes after its decision; labels before the first decision are the backfill's.
        first = pc.min(decisions["event_time"]).as_py().timestamp()
        labels = self._labels.rows(max(since, first))
        if labels is None:
            return None
        # Most labels are of decisions whose window is open, and pandas' strings take much memory.
        wanted = pc.is_in(labels["transaction_id"], closed["transaction_id"].combine_chunks())
        outcomes = labels.filter(wanted).select(["transaction_id", "fraud"]).to_pandas()
        made = closed.to_pandas().drop_duplicates("decision_id").drop(columns="seq")
        made = made.merge(outcomes.drop_duplicates("transaction_id"), on="transaction_id")
        made = made.rename(columns={"fraud": "positive", "amount_minor": "amount"})
        made = made.assign(role=CHAMPION, stopped=made["decision"] == "decline")
        return with_challenger(made, self._shadow.rows(since), "decision_id")


QUALITY_SPEC = QualitySpec("fraud", OutcomeReader, CostModel(), DAY)
