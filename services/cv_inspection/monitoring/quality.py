"""Labelled inspections, from which the monitor computes quality and cost."""

from collections.abc import Mapping

from monitoring.quality import SHADOW_COLUMNS, Outcomes, QualitySpec, with_challenger
from services.cv_inspection.ingestion.audit import DRAWN_BY, WEIGHT
from services.cv_inspection.ingestion.outcomes import with_labels
from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE, LABELS_TABLE
from services.cv_inspection.problem import DESIGN, ESCAPE_COST_MINOR, GOOD, CostModel
from services.platform.models.names import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import IncrementalReader, Lake

# Seconds of a period: a line runs day and night, and operators label within minutes.
_PERIOD_S = 300.0
_FEED = ""


class OutcomeReader:
    """Reads labelled inspections of the champion, and of the challenger from shadow mode.

    A part that was sent to a person counts as stopped. Audited ones count as passed, as often as
    they stand for; other passed parts don't count, see `ingestion.audit`.
    """

    def __init__(self, lake: Lake) -> None:
        wanted = ["inspection_id", "model", "defect", "decision", *DRAWN_BY]
        self._inspections = IncrementalReader(lake, INSPECTIONS_TABLE, wanted, schema=INSPECTIONS)
        self._labels = IncrementalReader(lake, LABELS_TABLE, ["inspection_id", "label"])
        self._shadow = IncrementalReader(lake, shadow_table(DESIGN), SHADOW_COLUMNS)

    def __call__(self, since: Mapping[str, float]) -> Outcomes | None:
        """Those since an event time, seconds: see `monitoring.quality.OutcomeReader`.

        There is one feed. Times are the stream's or the service's, not a client's, so the newest
        tells what time it is (ADR 18).
        """
        earliest = since.get(_FEED, 0.0)
        inspections, labels = self._inspections.rows(earliest), self._labels.rows(earliest)
        if inspections is None or labels is None or not len(inspections):
            return None
        rows = with_labels(inspections, labels).drop(columns="seq")
        rows = rows[rows[WEIGHT] > 0].reset_index(drop=True)
        rows = rows.rename(columns={"defect": "score"}).assign(
            role=CHAMPION,
            stopped=rows["decision"] != "pass",
            positive=rows["label"] != GOOD,
            amount=float(ESCAPE_COST_MINOR),
            feed=_FEED,
        )
        if not len(rows):
            return None
        newest = rows["event_time"].max().timestamp()
        rows = with_challenger(rows, self._shadow.rows(earliest), "inspection_id")
        return Outcomes(rows, {_FEED: newest})


QUALITY_SPEC = QualitySpec(DESIGN, OutcomeReader, CostModel(), _PERIOD_S)
