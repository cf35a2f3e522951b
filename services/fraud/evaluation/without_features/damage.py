"""What a fault did to payments: which were lost, doubled or skewed, and what it cost.

The money is of two kinds of payments: those that nothing decided, which the gateway lets pass, and
those that were decided without the online store. Each is decided again by the present champion,
with the features that it has in the lake as of just before its own event, under the costs and the
price of a review slot that were logged. Its cost is the expected cost of what was done less that of
what the champion would have done, with the champion's probability of fraud for both.

So it is an expectation, and no bill: it needs no labels, which come two weeks later. It leaves out
rules, late answers, events that were lost, and decisions on rows that were behind the stream.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import cart_sets, request_columns
from services.fraud.features.states import STATES
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.columns import EventReader, Events
from services.fraud.ingestion.events import DECISIONS_STREAM, STREAM
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABEL_SCHEMA,
    LABELS_TABLE,
    NOT_SYNTHETIC,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.model import FraudModel, needs_embeddings, read_model
from services.fraud.monitoring.skew import audit_with_rules
from services.fraud.monitoring.skew_rows import advance, empty_tables, rows_within
from services.fraud.problem import APPROVE, DESIGN, CostModel
from services.fraud.review.policy import COSTS, codes, logged_costs, usual_costs
from services.platform.evaluation.after_fault import settled
from services.platform.hooks import Damage
from services.platform.models.served_file import get_served
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.streaming.stored import stored_between
from services.platform.types import Floats, Integers

# A decision is stored before its payment's event, or once NATS is back.
_EARLIER, _LATER = timedelta(minutes=1), timedelta(minutes=10)
# Events folded at once, and the most payments that are decided again: 100,000 with their carts and
# vectors take 200 MB.
_EVENTS, _MAX_CASES = 100_000, 100_000

Range = tuple[int, int]


@dataclass(frozen=True)
class Ranges:
    """Sequences of a time, each behind the first up to the second.

    Attributes:
        events: Of the events.
        decisions: Of the decisions.
        events_around: Those among which the events of these decisions are.
        decisions_around: Those among which the decisions of these events are.
    """

    events: Range
    decisions: Range
    events_around: Range
    decisions_around: Range


@dataclass(frozen=True)
class Cases:
    """N payments that the champion did not decide with its features.

    Attributes:
        transactions: Their events, N rows of `TRANSACTION_SCHEMA`.
        outcome: (N,) codes of what was done.
        costs: The cost model, each field with N values.
    """

    transactions: pa.Table
    outcome: Integers
    costs: CostModel


def damage(config: Settings, since: datetime, until: datetime) -> Damage:
    """Count what became of the payments of a time, by the clock of NATS.

    It waits until the lake has what the streams hold. Of the lake it reads the parts of that time,
    and the events up to it, a range at a time: features are sums over all of them.

    Raises:
        OSError: an engine does not answer.
        ValueError: the lake is behind its streams.
    """
    ranges = asyncio.run(_ranges(config, since, until))
    lake = Lake(config)
    events = _read(lake, TRANSACTIONS_TABLE, ["transaction_id", "outcome"], ranges.events)
    around = _read(lake, DECISIONS_TABLE, ["transaction_id"], ranges.decisions_around)
    columns = [
        "transaction_id", "decision_id", "decision", "model_decision", "degraded", "costs",
    ]  # fmt: skip
    decisions = _read(lake, DECISIONS_TABLE, columns, ranges.decisions)
    audited = audit_with_rules(config, ranges.decisions)
    eur, said = _money(config, lake, ranges, events, decisions)
    return Damage(
        came_in=len(events),
        unanswered=events["outcome"].null_count,
        degraded=int(pc.sum(decisions["degraded"]).as_py() or 0),
        lost=undecided(events, around) + _missing(lake, ranges.events, len(events)),
        doubled=repeated(events["transaction_id"]) + repeated(decisions["decision_id"]),
        compared=audited.vectors,
        skewed=audited.mismatches,
        eur=eur,
        said=said,
    )


def undecided(events: pa.Table, decisions: pa.Table) -> int:
    """How many payments were answered, and no decision on them is stored."""
    answered = events.filter(events["outcome"].is_valid())["transaction_id"]
    known = pc.is_in(answered, decisions["transaction_id"].combine_chunks())
    return len(answered) - int(pc.sum(known).as_py() or 0)


def repeated(ids: pa.ChunkedArray) -> int:
    """How many values are there besides the first of each.

    >>> repeated(pa.chunked_array([["a", "b", "a", "a"]]))
    2
    """
    return len(ids) - len(ids.unique())


def extra_cost(
    probability: Floats, amount_minor: Floats, done: Integers, costs: CostModel
) -> Floats:
    """(N,) minor units that what was done is expected to cost more than the best outcomes.

    Args:
        probability: (N,) of fraud.
        done: (N,) codes of what was done.
        costs: Each field one value, or (N,).

    >>> p, amount = np.array([0.9, 0.9]), np.array([5_000.0, 5_000.0])
    >>> extra_cost(p, amount, np.array([0, 1]), CostModel()).round().tolist()
    [5800.0, 0.0]
    """
    expected = costs.expected(probability, amount_minor)  # type: ignore[arg-type]
    best = costs.outcomes(probability, 0.0, amount_minor)
    return np.choose(done, expected) - np.choose(best, expected)


async def _ranges(config: Settings, since: datetime, until: datetime) -> Ranges:
    """Wait for the lake, and look the sequences up."""
    durables = (STREAM, lake_writer.NAME), (DECISIONS_STREAM, lake_writer.DECISIONS_NAME)
    async with settled(config, until, durables) as js:
        first, last = since - _EARLIER, until + _LATER
        return Ranges(
            events=await stored_between(js, STREAM, since, until),
            decisions=await stored_between(js, DECISIONS_STREAM, since, until),
            events_around=await stored_between(js, STREAM, first, last),
            decisions_around=await stored_between(js, DECISIONS_STREAM, first, last),
        )


_SCHEMAS = {
    TRANSACTIONS_TABLE: TRANSACTION_SCHEMA,
    LABELS_TABLE: LABEL_SCHEMA,
    DECISIONS_TABLE: DECISION_SCHEMA,
}


def _read(
    lake: Lake,
    table: str,
    columns: list[str] | None,
    within: Range,
    where: pc.Expression | None = None,
) -> pa.Table:
    """Rows of some sequences; decisions without those of load tests, which have no events."""
    if table == DECISIONS_TABLE:
        where = NOT_SYNTHETIC
    schema = _SCHEMAS[table]
    found = SequenceReader(lake, table, columns, schema, where).between(*within)
    if found is not None:
        return found
    names = schema.names if columns is None else ["seq", *columns]
    return schema.empty_table().select(names)


def _missing(lake: Lake, within: Range, transactions: int) -> int:
    """Sequences of the stream of events that the lake does not have: lost, or dead letters."""
    labels = _read(lake, LABELS_TABLE, [], within)
    return within[1] - within[0] - transactions - len(labels)


def _money(
    config: Settings, lake: Lake, ranges: Ranges, events: pa.Table, decisions: pa.Table
) -> tuple[float | None, tuple[str, ...]]:
    """EUR, and sentences about it."""
    degraded = decisions.filter(decisions["degraded"])
    unanswered = events.filter(events["outcome"].is_null())
    if not len(degraded) and not len(unanswered):
        return 0.0, ("every payment was decided by the champion with its features",)
    model = read_model(get_served(config, DESIGN))
    if needs_embeddings(model):
        return None, (f"no EUR: {model.card.label} needs graph embeddings, which are not read",)
    wanted = len(degraded) + len(unanswered)
    cases = _cases(lake, ranges, degraded, unanswered, usual_costs(decisions["costs"]))
    said = [
        "EUR is what these payments are expected to cost more than the champion's decisions with "
        f"their features: {len(unanswered):,} unanswered, {len(degraded):,} degraded"
    ]
    count = len(cases.transactions)
    if count < wanted:
        said.append(f"{wanted - count:,} of them have no event in the lake or are too many")
    if not count:
        return 0.0, tuple(said)
    probability = scores_before(lake, model, cases.transactions)
    amount = cases.transactions["amount_minor"].to_numpy().astype(np.float64)
    extra = extra_cost(probability, amount, cases.outcome, cases.costs)
    return float(extra.sum() / 100), tuple(said)


def _cases(
    lake: Lake, ranges: Ranges, degraded: pa.Table, unanswered: pa.Table, usual: CostModel
) -> Cases:
    """The payments to decide again, each with its event: the first ones, if they are many."""
    by_model = pc.coalesce(degraded["model_decision"], degraded["decision"])
    done = {
        identity: (int(code), usual if logged is None else logged_costs(logged))
        for identity, code, logged in zip(
            degraded["transaction_id"].to_pylist(),
            codes(by_model),
            degraded["costs"].to_pylist(),
            strict=True,
        )
    }
    done |= dict.fromkeys(unanswered["transaction_id"].to_pylist(), (APPROVE, usual))
    chosen = list(done)[:_MAX_CASES]
    where = pc.field("transaction_id").isin(chosen)
    found = _read(lake, TRANSACTIONS_TABLE, None, ranges.events_around, where)
    of = [done[identity] for identity in found["transaction_id"].to_pylist()]
    columns = {
        name: np.array([getattr(costs, name) for _, costs in of], dtype=np.float64)
        for name in COSTS
    }
    outcome = np.array([code for code, _ in of], dtype=np.int64)
    return Cases(found, outcome, CostModel(**columns))  # type: ignore[arg-type]


def scores_before(lake: Lake, model: FraudModel, transactions: pa.Table) -> Floats:
    """(N,) a model's scores of N payments, with their features as of just before their events.

    Args:
        transactions: N rows of `TRANSACTION_SCHEMA` in order of `seq`.
    """
    vectors = feature_vectors(rows_before(lake, transactions), request_columns(transactions))
    sets = {"items": cart_sets(transactions)} if model.card.sets else {}
    return model.score(vectors, sets).astype(np.float64)


def rows_before(lake: Lake, transactions: pa.Table) -> Mapping[str, Floats]:
    """By state name, the rows (N, width) of N payments, each as of just before its event.

    The lake's events are folded up to the last of them, a range at a time.
    """
    before = transactions["seq"].to_numpy() - 1
    rows = {s.name: np.full((len(before), s.width), np.nan) for s in STATES}
    reader, tables = EventReader(lake), empty_tables()
    last = int(before.max()) + 1
    for begin in range(0, last, _EVENTS):
        end = min(begin + _EVENTS, last)
        events = Events.from_tables(*reader.between(begin, end))
        due = (before >= begin) & (before < end)
        if due.any():
            wanted = {s.name: before[due] for s in STATES}
            part = transactions.filter(pa.array(due))
            for name, found in rows_within(tables, events, part, wanted).items():
                rows[name][due] = found
        advance(tables, events)
    return rows
