"""The walkthrough's view of money: logged payments, decided by other costs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_SYNTHETIC
from services.fraud.monitoring.quality import OutcomeReader
from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.review.live import CostChange, in_eur, present_costs
from services.platform.evaluation.what_if import (
    Decided,
    LoggedDecisions,
    Slider,
    covered_days,
    newest_by_role,
)
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats
from services.platform.walkthrough import Money

_COLUMNS = ["event_time", "score", "threshold", "amount_minor", "costs"]
MAX_ROWS = 1_000_000
_SLIDERS = (
    Slider("opex", "A declined genuine customer", "EUR", 50, 0.5),
    Slider("fee", "A chargeback, on top of the amount", "EUR", 100, 1),
    Slider("analyst_minute", "An analyst's minute", "EUR", 5, 0.05),
    Slider("analyst_minutes", "Minutes of a review", "min", 30, 0.5),
    Slider("missed", "Share of frauds that analysts miss", "", 1, 0.01),
    Slider("wrongly_stopped", "Share of genuine that analysts stop", "", 1, 0.01),
)


async def present(config: Settings) -> Mapping[str, float]:
    """The present costs of the running stack. OSError without one."""
    return in_eur(await present_costs(config))


def read(config: Settings) -> LoggedDecisions | None:
    """The newest decisions, without those of load tests; None before any. OSError: S3 is away."""
    lake = Lake(config)
    reader = SequenceReader(lake, DECISIONS_TABLE, _COLUMNS, DECISION_SCHEMA, NOT_SYNTHETIC)
    rows = reader.newest(MAX_ROWS)
    if rows is None:
        return None
    found = OutcomeReader(lake)({})
    return LoggedDecisions(
        score=rows["score"].to_numpy(),
        threshold=rows["threshold"].to_numpy(),
        amount=rows["amount_minor"].to_numpy(),
        slot=_slots(rows),
        days=covered_days(event_times(rows)),
        labelled={} if found is None else newest_by_role(found.rows),
    )


def decide(logged: LoggedDecisions, eur: Mapping[str, float]) -> Decided:
    """Outcomes at the price that a review slot had when each payment was decided.

    A payment that was logged before decisions had costs keeps its threshold's outcome.
    """
    costs = CostChange.model_validate(dict(eur)).apply(CostModel())
    approve, decline, review = costs.expected(logged.score, logged.amount)  # type: ignore[arg-type]
    expected: list[Floats] = [approve, decline, review]  # type: ignore[list-item]
    known = ~np.isnan(logged.slot)
    slot = np.where(known, logged.slot, np.inf)
    priced = replace(costs, slot=slot)  # type: ignore[arg-type]
    outcome = priced.outcomes(logged.score, 0.0, logged.amount).astype(np.int64)
    by_threshold = (logged.score >= logged.threshold).astype(np.int64)
    return Decided(np.where(known, outcome, by_threshold), expected, costs)


def _slots(rows: pa.Table) -> Floats:
    """(D,) prices of a slot; infinite without one, NaN where a decision has no costs."""
    sheets = rows["costs"].combine_chunks()
    slot = pc.struct_field(sheets, "slot").to_numpy(zero_copy_only=False)
    found: Floats = np.where(np.isnan(slot), np.inf, slot)
    return np.where(sheets.is_valid().to_numpy(zero_copy_only=False), found, np.nan)


MONEY = Money(_SLIDERS, OUTCOMES, present, read, decide)
