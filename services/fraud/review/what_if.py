"""Change the costs of a running stack, and say what the change is worth on the logged decisions."""

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa

from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_SYNTHETIC
from services.fraud.problem import CostModel
from services.fraud.review import live
from services.fraud.review.live import CostChange, in_eur
from services.fraud.review.policy import logged_costs, recompute
from services.fraud.service import SCORER
from services.platform.evaluation.what_if import covered_days
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.streaming.connection import connect
from services.platform.types import Integers

_COLUMNS = ["event_time", "score", "threshold", "amount_minor", "decision", "costs"]
_TIMEOUT_S = 10.0
# Decisions that are decided again, and how many at a time: a deciding in Python takes 25 us and
# 0.8 KB, so a week's 60 million at 100/s would take 24 minutes and 49 GB (2026-11-30).
NEWEST, _PART = 100_000, 20_000


@dataclass(frozen=True)
class CostsChanged:
    """What a change of costs did.

    Attributes:
        old: The costs before, EUR.
        new: The costs now, EUR.
        decisions: Logged decisions that were decided again: the newest.
        changed: Of them, those with another outcome.
        eur_per_day_old: Expected cost of a day under the new costs, by the outcomes of the old.
        eur_per_day_new: The same, by the outcomes of the new costs.
        brute_force_mismatches: Outcomes in which the columnar policy differs from deciding one
            logged decision after the other, with logged and with new costs.
        applied_ms: Until the scorer decided by the new costs; None if nothing was changed.
    """

    old: dict[str, float]
    new: dict[str, float]
    decisions: int
    changed: int
    eur_per_day_old: float
    eur_per_day_new: float
    brute_force_mismatches: int
    applied_ms: float | None


def change_costs(config: Settings, change: CostChange) -> CostsChanged:
    """Publish new costs, wait until the scorer follows, and decide the newest decisions again.

    Raises:
        OSError: NATS, S3 or the scorer does not answer.
        TimeoutError: the scorer did not follow in time.
    """
    old, new, applied_ms = asyncio.run(_publish(config, change))
    rows = newest_decisions(Lake(config))
    nothing = (0, 0, 0.0, 0.0, 0)
    return CostsChanged(
        in_eur(old), in_eur(new), *(nothing if rows is None else _compare(rows, old, new)),
        applied_ms,
    )  # fmt: skip


def newest_decisions(lake: Lake) -> pa.Table | None:
    """The newest logged decisions, at most `NEWEST`, without load tests'; None without any.

    Raises:
        OSError: S3 did not answer.
    """
    reader = SequenceReader(lake, DECISIONS_TABLE, _COLUMNS, DECISION_SCHEMA, NOT_SYNTHETIC)
    return reader.newest(NEWEST)


async def _publish(
    config: Settings, change: CostChange
) -> tuple[CostModel, CostModel, float | None]:
    nc = await connect(config, "costs")
    try:
        begin = monotonic()
        old, new = await live.change_costs(nc.jetstream(), change)
        if new == old:
            return old, new, None
        while await asyncio.to_thread(_scorer_costs, config) != in_eur(new):
            if monotonic() - begin > _TIMEOUT_S:
                raise TimeoutError("the scorer did not take the costs: `whiteboard status`")
            await asyncio.sleep(0.02)
        return old, new, (monotonic() - begin) * 1e3
    finally:
        await nc.close()


def _scorer_costs(config: Settings) -> Any:
    """The costs by which the scorer decides, EUR, as its readiness shows them."""
    try:
        with urllib.request.urlopen(f"{SCORER.url(config)}/readyz", timeout=2.0) as answer:
            return json.loads(json.load(answer)["costs"])
    except urllib.error.HTTPError as error:
        raise OSError(f"the scorer is not ready: {error}") from error


def _compare(rows: pa.Table, old: CostModel, new: CostModel) -> tuple[int, int, float, float, int]:
    parts = [rows.slice(begin, _PART) for begin in range(0, len(rows), _PART)]
    changed, eur_old, eur_new, wrong = np.sum([_sums(part, old, new) for part in parts], axis=0)
    days = covered_days(event_times(rows))
    return len(rows), int(changed), eur_old / days, eur_new / days, int(wrong)


def _sums(rows: pa.Table, old: CostModel, new: CostModel) -> tuple[int, float, float, int]:
    """Of some decisions: how many change, their cost by old and new outcomes, and mismatches."""
    by_old, by_new = recompute(rows, old), recompute(rows, new)
    return (
        int((by_old != by_new).sum()),
        _expected(rows, by_old, new),
        _expected(rows, by_new, new),
        _mismatches(rows, old, by_old) + _mismatches(rows, new, by_new),
    )


def _expected(rows: pa.Table, outcome: Integers, costs: CostModel) -> float:
    """Summed expected cost of outcomes (D,), EUR."""
    probability, amount = rows["score"].to_numpy(), rows["amount_minor"].to_numpy()
    expected = costs.expected(probability, amount)
    return float(np.choose(outcome, expected).sum()) / 100


def _mismatches(rows: pa.Table, costs: CostModel, outcome: Integers) -> int:
    """Brute force: each logged decision, decided alone as the scorer does."""
    wrong = 0
    columns = (rows[c].to_pylist() for c in ("score", "threshold", "amount_minor", "costs"))
    for code, (score, threshold, amount, logged) in zip(
        outcome, zip(*columns, strict=True), strict=True
    ):
        if logged is None:
            wrong += code != int(score >= threshold)
            continue
        slot = logged_costs(logged).slot
        wrong += code != CostModel(**{**costs.__dict__, "slot": slot}).outcome(score, amount)
    return int(wrong)
