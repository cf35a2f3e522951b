"""Why a decision was taken, and the deletion test of the reasons over the lake's decisions."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.decisions import of_current_set, read_decisions, vectors_of
from services.fraud.features.request import cart_sets
from services.fraud.ingestion.tables import NOT_DEGRADED
from services.fraud.problem import DECLINE, DESIGN, CostModel
from services.fraud.reasons.explainer import CART, NotExplained
from services.fraud.reasons.report import encoded, fetch, make_report
from services.fraud.reasons.worker import Explainers, explain_event
from services.fraud.review.policy import logged_costs
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect

TURNED_TARGET, GAP_LIMIT = 0.9, 1e-4


@dataclass(frozen=True)
class DeletionTest:
    """What became of declines when parts of the vector were set to what is usual.

    Attributes:
        declines: How many were tested.
        left_out: Declines of models that do not explain themselves.
        turned: Share that is not declined without the named reasons, at the costs and the price of
            a review slot that the decision logged.
        turned_first: Share that is not declined without the first reason alone.
        turned_least: For comparison: share that is not declined without as many groups that
            contribute least.
        max_gap: The largest difference of base and contributions from the log-odds.
        mix: By feature group, how often it came first.
    """

    declines: int
    left_out: int
    turned: float
    turned_first: float
    turned_least: float
    max_gap: float
    mix: dict[str, int]


def deletion_test(config: Settings, count: int, bar: ProgressBar) -> DeletionTest:
    """Explain the newest declines of the lake, and decide them without their reasons.

    Declines by a rule, which an answer of the model does not turn, are left out.

    Raises:
        ValueError: nothing was declined yet.
        OSError: the store does not answer.
    """
    rows = _declines(Lake(config), count)
    explainers, carts = Explainers(config), cart_sets(rows)
    vectors = vectors_of(rows)
    labels, policies = rows["model"].to_pylist(), _policies(rows)
    turned, gaps, mix, left_out = [], [0.0], dict[str, int](), 0
    with bar("explaining declines") as step:
        for n, label in enumerate(labels):
            step(n + 1, len(labels))
            try:
                explainer = explainers.of(label)
            except NotExplained:
                left_out += 1
                continue
            filled = max(int((carts[n, :, 0] >= 0).sum()), 1)
            sets = {"items": carts[n : n + 1, :filled]}
            found = explainer.explain(vectors[n], sets)
            gaps.append(found.gap)
            named = [reason.group for reason in found.reasons]
            if named:
                mix[named[0]] = mix.get(named[0], 0) + 1
            others = _least(found.contributions, len(named))
            scores = [
                explainer.score_without(vectors[n], sets, groups)
                for groups in (named, named[:1], others)
            ]
            turned.append([policies[n](score) != DECLINE for score in scores])
    shares = np.array(turned, dtype=np.float64).reshape(-1, 3)
    turned_share, first, least = shares.mean(axis=0).tolist() if len(shares) else [math.nan] * 3
    return DeletionTest(len(turned), left_out, turned_share, first, least, max(gaps), mix)


def _least(contributions: dict[str, float], count: int) -> list[str]:
    """The groups that contribute least."""
    return sorted(contributions, key=lambda group: contributions[group])[:count]


def _policies(rows: pa.Table) -> list[Callable[[float], int]]:
    """Of each decision, the outcome's code by score, at its amount and its logged costs."""
    logged = zip(rows["costs"].to_pylist(), rows["amount_minor"].to_pylist(), strict=True)
    return [partial(_outcome, logged_costs(costs), amount) for costs, amount in logged]


def _outcome(costs: CostModel, amount_minor: int, score: float) -> int:
    return costs.outcome(score, amount_minor)


def _declines(lake: Lake, count: int) -> pa.Table:
    by_model = (pc.field("decision") == "decline") & (pc.field("model_decision") == "decline")
    where = NOT_DEGRADED & by_model & pc.field("costs").is_valid()
    found = read_decisions(lake, None, where)
    rows = None if found is None else of_current_set(found)
    if rows is None or not len(rows):
        raise ValueError("the model declined nothing yet: `whiteboard simulate fraud`")
    return rows[-count:].combine_chunks()


def why(config: Settings, decision_id: str) -> dict[str, Any]:
    """The report on a decision: the stored one, or one made now of a decision in the lake.

    Args:
        decision_id: Of the decision, or of its transaction once it is in the lake.

    Raises:
        KeyError: there is no such decision.
        ConnectionError: NATS does not answer.
        OSError: the store does not answer.
    """
    stored = asyncio.run(_stored(config, decision_id))
    if stored is not None:
        return stored
    either = (pc.field("decision_id") == decision_id) | (pc.field("transaction_id") == decision_id)
    rows = read_decisions(Lake(config), None, either)
    if rows is None or not len(rows):
        raise KeyError(
            f"no decision {decision_id!r}: declines and reviews are known within a second, "
            "approvals once they are in the lake (half a minute)"
        )
    event = _event(rows.slice(len(rows) - 1).to_pylist()[0])
    found, note = explain_event(Explainers(config), event)
    report: dict[str, Any] = orjson.loads(encoded(make_report(event, found, note)))
    return report


async def _stored(config: Settings, decision_id: str) -> dict[str, Any] | None:
    nc = await connect(config, f"{DESIGN}-why")
    try:
        return await fetch(nc.jetstream(), decision_id)
    finally:
        await nc.close()


def _event(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the lake as the decision event it was made of."""
    parts = ("event_time", "customer_id", "merchant_id", "device_id", "ip", "feed", "amount_minor")
    transaction = {name: row.pop(name) for name in (*parts, CART)}
    transaction["transaction_id"] = row["transaction_id"]
    transaction["event_time"] = transaction["event_time"].isoformat()
    row.pop("seq")
    return {**row, "transaction": transaction, "seqs": dict(row["seqs"])}
