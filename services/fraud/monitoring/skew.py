"""The skew audit: recompute every logged feature vector from the raw events and compare bytes.

The outcome is recomputed too, from the logged score, amount, costs and price of a review slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import sleep

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute as pc

from features.aggregation import backfill
from features.spec import SEQ, SEQ_COLUMN, Embedding
from features.state_log import stack
from services.fraud.features.decisions import of_current_set, read_decisions
from services.fraud.features.embedding_log import read_embedding_log
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import EMBEDDINGS, FEATURES, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import ENTITIES
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTION_SCHEMA, TRANSACTIONS_TABLE
from services.fraud.ingestion.watermark import ahead_message, feed_clocks
from services.fraud.monitoring.rules import audit_rules, published_sets
from services.fraud.review.policy import codes, recompute
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats, Integers

_READ_ATTEMPTS, _RETRY_S = 4, 2.0


@dataclass(frozen=True)
class Mismatch:
    """A decision whose vector differs from the one recomputed from its events."""

    transaction_id: str
    decision_id: str
    features: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Audit:
    """Outcome of a skew audit.

    Attributes:
        vectors: Decisions compared.
        mismatches: Decisions whose vector differs, and decisions whose rules or outcome do.
        degraded: Decisions taken without the online store.
        other_set: Decisions of another feature set, which are not compared.
        events: Events folded.
        gaps: Sequences up to the last that are missing in the lake: dead letters, or lost events.
        examples: The first mismatches.
        ahead: A sentence for each feed with transactions far ahead of its others.
        rule_decisions: Decisions whose rules and outcome were recomputed.
        rule_mismatches: Those in which other rules fire, or that lead to another outcome.
        unknown_rules: Decisions of a set of rules that is not in the history.
    """

    vectors: int = 0
    mismatches: int = 0
    degraded: int = 0
    other_set: int = 0
    events: int = 0
    gaps: int = 0
    examples: list[Mismatch] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    rule_decisions: int = 0
    rule_mismatches: int = 0
    unknown_rules: int = 0


def audit_with_rules(config: Settings) -> Audit:
    """`audit`, and the rules and outcome of every logged decision recomputed from its vector.

    Raises:
        ConnectionError, OSError: NATS or S3 did not answer.
        ValueError: the decisions have another number of features.
    """
    lake = Lake(config)
    found, logged = audit(lake), read_decisions(lake)
    if logged is None:
        return found
    rules = audit_rules(of_current_set(logged), published_sets(config))
    reason = "other rules fire, or another outcome follows"
    examples = [Mismatch("", decision, (), reason) for decision in rules.examples]
    return replace(
        found,
        mismatches=found.mismatches + rules.mismatches,
        examples=[*found.examples, *examples],
        rule_decisions=rules.decisions,
        rule_mismatches=rules.mismatches,
        unknown_rules=sum(rules.unknown.values()),
    )


def audit(lake: Lake) -> Audit:
    """Recompute the vector of every logged decision from the raw events and compare bytes.

    Raises:
        OSError: S3 did not answer.
        ValueError: the decisions have another number of features.
    """
    logged = read_decisions(lake)
    events = _events(lake)
    if logged is None or events is None:
        return Audit()
    decisions = of_current_set(logged)
    found = compare(events, decisions, read_embedding_log(lake))
    times = lake.read(TRANSACTIONS_TABLE, ["event_time", "feed"], schema=TRANSACTION_SCHEMA)
    clocks = {} if times is None else feed_clocks(times).by_feed
    ahead = [ahead_message(feed, clock) for feed, clock in clocks.items() if clock.ahead]
    return replace(found, other_set=len(logged) - len(decisions), ahead=ahead)


def _events(lake: Lake) -> Events | None:
    """All events up to the last transaction.

    Later labels are left out: they may have been written after the transactions were read, which
    would look like a gap. A batch is written table by table, so a gap is read again before it
    counts.
    """
    columns = ["event_time", *ENTITIES, "fraud"]
    for _ in range(_READ_ATTEMPTS):
        transactions = lake.read(TRANSACTIONS_TABLE)
        if transactions is None:
            return None
        so_far = pc.field("seq") <= int(transactions["seq"][-1].as_py())
        events = Events.from_tables(transactions, lake.read(LABELS_TABLE, columns, so_far))
        if not _gaps(events):
            break
        sleep(_RETRY_S)
    return events


def _gaps(events: Events) -> int:
    """Number of missing sequences up to the last."""
    return int(events.seq[-1]) - len(events)


def compare(
    events: Events, decisions: pa.Table, embedding_logs: Mapping[str, pa.Table | None] | None = None
) -> Audit:
    """Compare the logged vectors with those computed from `events`.

    Args:
        events: All events up to the decisions or further, in stream order.
        decisions: D rows of `DECISION_SCHEMA`.
        embedding_logs: By view name, the embedding log.
    """
    logged = _seqs(decisions)
    rows = rows_as_of(events, decisions, logged)
    for view in EMBEDDINGS:
        log = (embedding_logs or {}).get(view.name)
        rows[view.name] = _embedding_rows(decisions, view, logged[view.name], log)
    recomputed = feature_vectors(rows, request_columns(decisions))
    served = np.array(decisions["features"].to_pylist(), dtype=np.float64)
    served = served.reshape(len(decisions), -1)
    if served.shape[1] != len(FEATURES):
        raise ValueError(f"decisions hold {served.shape[1]} features, {len(FEATURES)} are known")
    # Rules may change the model's outcome: `rules.logged` recomputes that.
    by_model = pc.coalesce(decisions["model_decision"], decisions["decision"])
    wrong_outcome = recompute(decisions) != codes(by_model)
    differs = _bits(recomputed) != _bits(served)
    unknown_seq = _unknown_seq(rows, logged)
    wrong = np.nonzero(differs.any(axis=1) | unknown_seq | wrong_outcome)[0]
    return Audit(
        vectors=len(decisions),
        mismatches=len(wrong),
        events=len(events),
        gaps=_gaps(events),
        degraded=int(pc.sum(decisions["degraded"]).as_py() or 0),
        examples=[
            _example(decisions, int(i), differs[i], _reason(unknown_seq[i], wrong_outcome[i]))
            for i in wrong[:10]
        ],
    )


def rows_as_of(
    events: Events, decisions: pa.Table, logged: Mapping[str, Integers]
) -> dict[str, Floats]:
    """By state name, (D, width): each decision's row as of the sequence it logged.

    Each decision becomes a probe: an event that adds nothing, directly after the event whose
    sequence it logged. Probes differ by state, since a decision reads rows of different ages.

    Args:
        logged: By state name, (D,) logged sequences, -1 for a row that was not read.
    """
    rows = {}
    for state in STATES:
        probed = _with_probes(events, decisions, logged[state.name])
        folded = backfill(state.together, probed.events, probed.decision)
        found = folded[state.name].snapshots
        found[logged[state.name] < 0] = np.nan
        rows[state.name] = found
    return rows


def _embedding_rows(
    decisions: pa.Table, view: Embedding, logged: Integers, log: pa.Table | None
) -> Floats:
    """(D, width): each decision's embedding from the snapshot whose sequence it logged."""
    rows = np.full((len(decisions), view.width), np.nan)
    rows[logged == 0] = 0.0
    read = np.nonzero(logged > 0)[0]
    if log is None or not len(read):
        return rows
    key = view.keys[0]
    entries = log.to_pandas().assign(entry=np.arange(len(log)))
    wanted = pd.DataFrame({key: decisions[key].to_pandas()[read], SEQ_COLUMN: logged[read]})
    found = wanted.merge(entries[[key, SEQ_COLUMN, "entry"]], on=[key, SEQ_COLUMN], how="left")
    present = found["entry"].notna().to_numpy()
    values = entries[view.name].iloc[found["entry"][present].astype(np.int64)]
    rows[read[present]] = stack(values, view.width)
    return rows


@dataclass(frozen=True)
class _Probed:
    """Events and probes in one order.

    Attributes:
        events: N events and probes.
        decision: (N,) index of the probe's decision, -1 for an event.
    """

    events: Events
    decision: Integers


def _with_probes(events: Events, decisions: pa.Table, after: Integers) -> _Probed:
    count = len(decisions)
    position = np.concatenate([events.seq, np.maximum(after, 0)])
    is_probe = np.concatenate([np.zeros(len(events), bool), np.ones(count, bool)])
    order = np.lexsort((is_probe, position))
    nothing, none = np.zeros(count), np.zeros(count, bool)
    keys = {
        e: np.concatenate([np.asarray(events.keys[e], object), decisions[e].to_numpy()])[order]
        for e in ENTITIES
    }
    number = np.concatenate([np.full(len(events), -1), np.arange(count)])
    return _Probed(
        Events(
            seq=np.concatenate([events.seq, np.zeros(count, np.int64)])[order],
            time=np.concatenate([events.time, nothing])[order],
            is_transaction=np.concatenate([events.is_transaction, none])[order],
            amount=np.concatenate([events.amount, nothing])[order],
            chargeback=np.concatenate([events.chargeback, none])[order],
            keys=keys,
        ),
        number[order],
    )


def _seqs(decisions: pa.Table) -> dict[str, Integers]:
    """By view name, (D,) logged sequences, -1 for a row that was not read."""
    logged = [dict(pairs) for pairs in decisions["seqs"].to_pylist()]
    names = [state.name for state in STATES] + [view.name for view in EMBEDDINGS]
    return {n: np.array([_known(d, n) for d in logged], dtype=np.int64) for n in names}


def _known(logged: Mapping[str, int | None], name: str) -> int:
    value = logged.get(name)
    return -1 if value is None else int(value)


def _unknown_seq(rows: Mapping[str, Floats], logged: Mapping[str, Integers]) -> np.ndarray:
    """(D,) whether a decision logged a sequence that its entity's events do not have."""
    wrong = np.zeros(len(next(iter(logged.values()))), dtype=bool)
    for name, seqs in logged.items():
        found = np.nan_to_num(rows[name][:, SEQ], nan=-1.0)
        wrong |= (seqs >= 0) & (found != seqs)
    return wrong


def _bits(values: Floats) -> Integers:
    """The bytes of float64s as integers, with one NaN for all, as in JSON."""
    values = np.where(np.isnan(values), np.nan, values)
    return values.view(np.int64)


def _example(decisions: pa.Table, i: int, differs: np.ndarray, reason: str) -> Mismatch:
    return Mismatch(
        decisions["transaction_id"][i].as_py(),
        decisions["decision_id"][i].as_py(),
        tuple(FEATURES[k] for k in np.nonzero(differs)[0]),
        reason,
    )


def _reason(unknown_seq: bool, wrong_outcome: bool) -> str:
    if unknown_seq:
        return "a logged sequence is not among the events"
    return "the outcome differs" if wrong_outcome else "the vector differs"
