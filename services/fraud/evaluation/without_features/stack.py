"""What hours without the online store cost, in the running stack.

Traffic is sent while Redis is away, and decided by the fallback. Afterwards the features of the
same transactions are computed from the lake's events, and the champion decides them again under the
costs and slot prices that were logged: the same hours, as they would have been with Redis. So the
two costs differ by the outage only, not by the frauds that two different hours happen to have.
Fraud is the simulator's truth.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import uvloop

from services.fraud.evaluation.run_report import wait_until_processed
from services.fraud.evaluation.simulated_data import tabular_vectors
from services.fraud.features.request import cart_sets
from services.fraud.features.states import FEATURES
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    TRANSACTIONS_TABLE,
)
from services.fraud.model import needs_embeddings, read_model
from services.fraud.problem import APPROVE, DESIGN, CostModel
from services.fraud.review.live import present_costs
from services.fraud.review.policy import codes, recompute
from services.fraud.simulator.gateway import TrafficReport
from services.fraud.simulator.live import simulate_live
from services.fraud.simulator.shopping import TRANSACTIONS_PER_DAY
from services.platform.models.served_file import get_served
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats, Integers

# Takes Redis away while it is open.
Outage = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class OutageRun:
    """One run: hours with Redis, then hours without it.

    Attributes:
        transactions: Decisions while Redis was away.
        degraded: How many of them were degraded.
        frauds: How many were fraud, by the simulator's truth.
        precision: Of those that were stopped, the share of frauds.
        recall: Of the frauds, the share that was stopped.
        eur_per_hour: What they cost, EUR a simulated hour.
        eur_per_hour_with_features: What the champion's decisions on them, with their features,
            would have cost.
        ratio: The former over the latter.
        eur_per_hour_before: What the hours before cost, which are other transactions.
    """

    transactions: int
    degraded: int
    frauds: int
    precision: float
    recall: float
    eur_per_hour: float
    eur_per_hour_with_features: float
    ratio: float
    eur_per_hour_before: float

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON-serialisable dictionary."""
        return asdict(self)


def run(
    config: Settings, hours: float, rate: float, seed: int, outage: Outage, bar: ProgressBar
) -> OutageRun:
    """Send `hours` simulated hours with Redis and as many without it, and compare their costs.

    Args:
        config: Where the stack runs.
        hours: Simulated hours.
        rate: Transactions a second.
        seed: Of the simulation.
        outage: Takes Redis away while it is open.
        bar: Opens a progress bar with a title.

    Raises:
        OSError: an engine does not answer.
        ValueError: the champion needs graph embeddings, or the lake does not catch up.
    """
    seconds = hours * TRANSACTIONS_PER_DAY / 24 / rate
    before = _send(config, seed, rate, seconds, "with Redis", bar)
    with outage():
        during = _send(config, seed, rate, seconds, "without Redis", bar)
    with bar("waiting for the feature worker and the lake"):
        if not asyncio.run(wait_until_processed(config, 600.0)):
            raise ValueError("features or lake did not catch up: `whiteboard status`")
    with bar("deciding the same transactions with their features"):
        return compare(config, before, during, asyncio.run(present_costs(config)), hours)


def together(runs: Sequence[OutageRun]) -> float:
    """The ratio of all runs: what they cost over what they would have cost with features.

    A run of 12 hours has some 45 frauds, of which two or three large ones decide its own ratio.
    """
    paid = sum(one.eur_per_hour for one in runs)
    with_features = sum(one.eur_per_hour_with_features for one in runs)
    return paid / with_features if with_features else float("inf")


def _send(
    config: Settings, seed: int, rate: float, seconds: float, title: str, bar: ProgressBar
) -> TrafficReport:
    with bar(f"traffic {title}, {rate:.0f}/s") as step:
        report = TrafficReport()
        uvloop.run(simulate_live(config, report, seed, rate, seconds, step))
    return report


def compare(
    config: Settings, before: TrafficReport, during: TrafficReport, costs: CostModel, hours: float
) -> OutageRun:
    """The run's figures, from the lake."""
    lake = Lake(config)
    decisions, fraud = _logged(lake, during)
    amount = decisions["amount_minor"].to_numpy().astype(np.float64)
    outcome = codes(decisions["decision"])
    score = pa.array(scores_with_features(config, decisions))
    place = decisions.schema.get_field_index("score")
    with_features = recompute(decisions.set_column(place, "score", score))
    per_hour = 1 / (100 * hours)
    paid, ordinary = (
        costs.total(one, fraud, amount) * per_hour for one in (outcome, with_features)
    )
    earlier, earlier_fraud = _logged(lake, before)
    earlier_paid = costs.total(
        codes(earlier["decision"]),
        earlier_fraud,
        earlier["amount_minor"].to_numpy().astype(np.float64),
    )
    stopped = outcome != APPROVE
    hits = int((stopped & fraud).sum())
    return OutageRun(
        transactions=len(decisions),
        degraded=int(pc.sum(decisions["degraded"]).as_py() or 0),
        frauds=int(fraud.sum()),
        precision=hits / max(int(stopped.sum()), 1),
        recall=hits / max(int(fraud.sum()), 1),
        eur_per_hour=paid,
        eur_per_hour_with_features=ordinary,
        ratio=paid / ordinary if ordinary else float("inf"),
        eur_per_hour_before=earlier_paid * per_hour,
    )


def _logged(lake: Lake, report: TrafficReport) -> tuple[pa.Table, np.ndarray]:
    """The logged decisions of a run, and the truth of each."""
    rows = lake.read(DECISIONS_TABLE, schema=DECISION_SCHEMA)
    if rows is None:
        raise ValueError("the lake holds no decisions yet")
    found = pc.index_in(pa.array(report.decision_ids), rows["decision_id"].combine_chunks())
    known = pc.is_valid(found)
    fraud = np.array(report.fraud, dtype=bool)[known.to_numpy(zero_copy_only=False)]
    return rows.take(found.filter(known)), fraud


def scores_with_features(config: Settings, decisions: pa.Table) -> Floats:
    """(D,) the champion's scores of D decisions, with the features they would have had.

    Raises:
        ValueError: the champion needs graph embeddings, which this does not read.
    """
    lake, model = Lake(config), read_model(get_served(config, DESIGN))
    if needs_embeddings(model):
        raise ValueError(
            f"{model.card.label} needs graph embeddings: measure with `xgboost` as the champion"
        )
    transactions = lake.read(TRANSACTIONS_TABLE)
    if transactions is None:
        raise ValueError("the lake holds no transactions yet")
    transactions = transactions.sort_by("seq")
    vectors = tabular_vectors(transactions, lake.read(LABELS_TABLE))
    index: Integers = pc.index_in(
        decisions["transaction_id"].combine_chunks(),
        transactions["transaction_id"].combine_chunks(),
    ).to_numpy()
    full = np.full((len(decisions), len(FEATURES)), np.nan)
    full[:, : vectors.shape[1]] = vectors[index]
    sets = {"items": cart_sets(decisions)} if model.card.sets else {}
    return model.score(full, sets).astype(np.float64)
