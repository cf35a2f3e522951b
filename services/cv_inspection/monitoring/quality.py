"""Inspections and what a person found, for the monitor that reckons their quality and cost."""

import pandas as pd

from monitoring.quality import SHADOWED, Bills, with_challenger
from services.cv_inspection.ingestion.lake_writer import INSPECTIONS_TABLE, VERDICTS_TABLE
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD, Kpi
from services.cv_inspection.serving.model import DESIGN
from services.platform.models.served_model import CHAMPION
from services.platform.retraining.shadow import shadow_table
from services.platform.storage.lake import Lake, Tail

# A line's day has no night: a period is as long as a person's round.
_SPAN_S = 300.0


class Judged:
    """Inspections with a person's verdict; the challenger's are shadow mode's.

    A part that was sent to a person counts as stopped.
    """

    def __init__(self, lake: Lake) -> None:
        wanted = ["inspection_id", "model", "defect", "decision"]
        self._inspections = Tail(lake, INSPECTIONS_TABLE, wanted)
        self._verdicts = Tail(lake, VERDICTS_TABLE, ["inspection_id", "label"])
        self._shadow = Tail(lake, shadow_table(DESIGN), SHADOWED)

    def __call__(self, since: float) -> pd.DataFrame | None:
        """Those since an event time (seconds), as `monitoring.quality.Bills` wants them."""
        inspections, verdicts = self._inspections.rows(since), self._verdicts.rows(since)
        if inspections is None or verdicts is None or not len(inspections):
            return None
        made = inspections.to_pandas().drop_duplicates("inspection_id").drop(columns="seq")
        told = verdicts.select(["inspection_id", "label"]).to_pandas()
        made = made.merge(told.drop_duplicates("inspection_id", keep="last"), on="inspection_id")
        made = made.rename(columns={"defect": "score"}).assign(
            role=CHAMPION,
            stopped=made["decision"] != "pass",
            positive=made["label"] != GOOD,
            amount=float(ESCAPE_COST_MINOR),
        )
        return with_challenger(made, self._shadow.rows(since), "inspection_id")


BILLS = Bills(DESIGN, Judged, Kpi(), _SPAN_S)
