"""Labelled inspections, from which the monitor computes quality and cost."""

import pandas as pd

from monitoring.quality import SHADOW_COLUMNS, QualitySpec, with_challenger
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE, LABELS_TABLE
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD, CostModel
from services.cv_inspection.serving.model import DESIGN
from services.platform.models.names import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import IncrementalReader, Lake

# Seconds of a period: a line runs day and night, and operators label within minutes.
_PERIOD_S = 300.0


class OutcomeReader:
    """Reads labelled inspections of the champion, and of the challenger from shadow mode.

    A part that was sent to a person counts as stopped.
    """

    def __init__(self, lake: Lake) -> None:
        wanted = ["inspection_id", "model", "defect", "decision"]
        self._inspections = IncrementalReader(lake, INSPECTIONS_TABLE, wanted)
        self._labels = IncrementalReader(lake, LABELS_TABLE, ["inspection_id", "label"])
        self._shadow = IncrementalReader(lake, shadow_table(DESIGN), SHADOW_COLUMNS)

    def __call__(self, since: float) -> pd.DataFrame | None:
        """Those since an event time, seconds: see `monitoring.quality.OutcomeReader`."""
        inspections, labels = self._inspections.rows(since), self._labels.rows(since)
        if inspections is None or labels is None or not len(inspections):
            return None
        rows = inspections.to_pandas().drop_duplicates("inspection_id").drop(columns="seq")
        labelled = labels.select(["inspection_id", "label"]).to_pandas()
        rows = rows.merge(
            labelled.drop_duplicates("inspection_id", keep="last"), on="inspection_id"
        )
        rows = rows.rename(columns={"defect": "score"}).assign(
            role=CHAMPION,
            stopped=rows["decision"] != "pass",
            positive=rows["label"] != GOOD,
            amount=float(ESCAPE_COST_MINOR),
        )
        return with_challenger(rows, self._shadow.rows(since), "inspection_id")


QUALITY_SPEC = QualitySpec(DESIGN, OutcomeReader, CostModel(), _PERIOD_S)
