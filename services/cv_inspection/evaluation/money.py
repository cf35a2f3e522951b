"""The walkthrough's view of money: logged inspections, decided by other costs."""

from collections.abc import Mapping

import numpy as np

from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.monitoring.quality import OutcomeReader
from services.cv_inspection.problem import ESCAPE_COST_MINOR, REINSPECTION_COST_MINOR, CostModel
from services.platform.evaluation.what_if import (
    Decided,
    LoggedDecisions,
    Slider,
    covered_days,
    newest_by_role,
)
from services.platform.models.names import CHAMPION
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.walkthrough import Money

_COLUMNS = ["inspection_id", "event_time", "defect", "threshold"]
MAX_ROWS = 1_000_000
_SLIDERS = (
    Slider("reinspection", "A good part that is inspected again", "EUR", 20, 0.1),
    Slider("escape", "A defect that escapes to a customer", "EUR", 500, 5),
)


async def present(_: Settings) -> Mapping[str, float]:
    """The design's costs: thresholds are chosen by them when a model is trained."""
    return {"reinspection": REINSPECTION_COST_MINOR / 100, "escape": ESCAPE_COST_MINOR / 100}


def read(config: Settings) -> LoggedDecisions | None:
    """The newest logged inspections, each once; None before any. OSError: S3 is away.

    A part has no amount: the cost of an escape is a slider, the model's fee.
    """
    lake = Lake(config)
    rows = SequenceReader(lake, INSPECTIONS_TABLE, _COLUMNS, INSPECTIONS).newest(MAX_ROWS)
    if rows is None:
        return None
    frame = rows.to_pandas().drop_duplicates("inspection_id")
    time_us = frame["event_time"].dt.as_unit("us").astype(np.int64).to_numpy()
    found = OutcomeReader(lake)({})
    return LoggedDecisions(
        score=frame["defect"].to_numpy(),
        threshold=frame["threshold"].to_numpy(),
        amount=np.zeros(len(frame)),
        slot=np.full(len(frame), np.inf),
        days=covered_days(time_us / 1e6),
        labelled={} if found is None else newest_by_role(found.rows.assign(amount=0.0)),
    )


def decide(logged: LoggedDecisions, eur: Mapping[str, float]) -> Decided:
    """Outcomes by the threshold that these costs choose.

    It is the threshold of least cost on the champion's labelled inspections; before there are any,
    the one that a calibrated probability has: where stopping costs as much as passing.
    """
    costs = CostModel(opex=round(eur["reinspection"] * 100), fee=round(eur["escape"] * 100))
    of = logged.labelled.get(CHAMPION)
    if of is not None and of.positive.any():
        threshold = costs.best_threshold(of.score, of.positive, of.amount, of.weight)
    else:
        threshold = costs.opex / max(costs.opex + costs.fee, 1)
    outcome = (logged.score >= threshold).astype(np.int64)
    expected = [logged.score * costs.fee, (1.0 - logged.score) * costs.opex]
    return Decided(outcome, expected, costs)


MONEY = Money(_SLIDERS, ("pass", "reject"), present, read, decide)
