"""Decisions joined with their outcomes, for the monitor of quality and cost."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pyarrow import compute as pc

from features.spec import DAY
from monitoring.quality import SHADOW_COLUMNS, Outcomes, QualitySpec, with_challenger
from services.fraud.ingestion.label_weights import DECIDED_BY
from services.fraud.ingestion.outcomes import settle, settled_until
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    NOT_DEGRADED,
)
from services.fraud.ingestion.watermark import DEFAULT_FEED
from services.fraud.problem import DECLINE, DESIGN, OUTCOMES, CostModel
from services.fraud.review.policy import usual_costs
from services.platform.models.names import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import IncrementalReader, Lake, event_time_before

_DECISION_COLUMNS = [
    "decision_id", "transaction_id", "model", "score", "decision", "amount_minor", "feed",
    "costs", *DECIDED_BY,
]  # fmt: skip


class OutcomeReader:
    """Decisions whose dispute window has closed; the challenger's scores come from shadow mode.

    Decisions taken without the online store are left out: the champion did not take them, and an
    outage is no decay of it.
    """

    def __init__(self, lake: Lake) -> None:
        self._decisions = IncrementalReader(
            lake, DECISIONS_TABLE, _DECISION_COLUMNS, NOT_DEGRADED, DECISION_SCHEMA
        )
        self._labels = IncrementalReader(lake, LABELS_TABLE, ["transaction_id", "fraud"])
        self._shadow = IncrementalReader(lake, shadow_table(DESIGN), SHADOW_COLUMNS)

    def __call__(self, since: Mapping[str, float]) -> Outcomes | None:
        """Those since an event time by feed, seconds: see `monitoring.quality.OutcomeReader`."""
        earliest = min(since.values(), default=0.0)
        decisions = self._decisions.rows(earliest, _not_before(since))
        if decisions is None or not len(decisions):
            return None
        # A label comes after its decision; labels before the first decision are the backfill's.
        first = pc.min(decisions["event_time"]).as_py().timestamp()
        labels = self._labels.rows(max(earliest, first))
        if labels is None:
            return None
        settled = settle(decisions, labels)
        cost_model = usual_costs(settled.rows["costs"])
        made = settled.rows.drop_columns("costs").to_pandas()
        made = made.drop_duplicates("decision_id").drop(columns="seq")
        made = made.rename(columns={"fraud": "positive", "amount_minor": "amount"})
        made = made.assign(
            role=CHAMPION,
            # What the champion's policy does, of which the control group is a sample.
            stopped=made["decision"].map(OUTCOMES.index).mask(made["control"].eq(True), DECLINE),
            feed=made["feed"].astype(object).fillna(DEFAULT_FEED),
        ).reset_index(drop=True)
        rows = with_challenger(made, self._shadow.rows(earliest), "decision_id", cost_model)
        until = {name: settled_until(one) for name, one in settled.clocks.items()}
        return Outcomes(rows, until, cost_model)


def _not_before(since: Mapping[str, float]) -> pc.Expression:
    """A filter: rows of a feed from its time on."""
    feed = pc.coalesce(pc.field("feed"), pc.scalar(DEFAULT_FEED))
    wanted = pc.scalar(True)
    for name, begin in since.items():
        is_late = ~event_time_before(datetime.fromtimestamp(begin, UTC))
        wanted = wanted & ((feed != pc.scalar(name)) | is_late)
    return wanted


QUALITY_SPEC = QualitySpec(DESIGN, OutcomeReader, CostModel(), DAY)
