"""Inspections and what a person found, for the monitor that reckons their quality and cost."""

import pandas as pd

from monitoring.quality import SHADOWED, Bills, with_challenger
from services.cv_inspection.lake_writer import INSPECTIONS_TABLE, VERDICTS_TABLE
from services.cv_inspection.model import DESIGN
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD, Kpi
from services.skeleton.champion import CHAMPION
from services.skeleton.lake import Lake
from services.skeleton.shadow import shadow_table

# A line's day has no night: a period is as long as a person's round.
_SPAN_S = 300.0


def judged(lake: Lake, since: float) -> pd.DataFrame | None:
    """Inspections since an event time (seconds) with a person's verdict.

    As `monitoring.quality.Bills` wants them; the challenger's are shadow mode's. A part that was
    sent to a person counts as stopped.

    Raises:
        OSError: S3 does not answer.
    """
    wanted = ["inspection_id", "event_time", "model", "defect", "decision"]
    inspections = lake.read(INSPECTIONS_TABLE, wanted, since=since)
    verdicts = lake.read(VERDICTS_TABLE, ["inspection_id", "label"], since=since)
    if inspections is None or verdicts is None or not len(inspections):
        return None
    made = inspections.to_pandas().drop_duplicates("inspection_id").drop(columns="seq")
    told = verdicts.to_pandas().drop_duplicates("inspection_id", keep="last").drop(columns="seq")
    made = made.merge(told, on="inspection_id").rename(columns={"defect": "score"})
    made = made.assign(
        role=CHAMPION,
        stopped=made["decision"] != "pass",
        positive=made["label"] != GOOD,
        amount=float(ESCAPE_COST_MINOR),
    )
    shadow = lake.read(shadow_table(DESIGN), SHADOWED, since=since)
    return with_challenger(made, shadow, "inspection_id")


BILLS = Bills(DESIGN, judged, Kpi(), _SPAN_S)
