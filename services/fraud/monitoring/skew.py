"""The skew audit: every logged vector recomputed from the raw events, and compared by bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import sleep

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute as pc

from features.aggregation import backfill
from features.spec import SEQ, SEQ_COLUMN, Embedding, Floats, Integers
from features.state_log import stack
from services.fraud.features.embeddings import log_tables
from services.fraud.features.states import FEATURES, GRAPH, STATES, contributions, vectors
from services.fraud.ingestion.events import ENTITIES, Events
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.retraining.training import entity_frame, own_frame
from services.platform.storage.lake import Lake

_LOOKS, _LOOK_AGAIN_S = 4, 2.0


@dataclass(frozen=True)
class Mismatch:
    """One decision whose vector is not what its events give."""

    transaction_id: str
    decision_id: str
    features: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Audit:
    """Outcome of a skew audit.

    Attributes:
        vectors: Decisions compared. mismatches: Those that differ. degraded: Decisions among
            them that were taken without the online store.
        events: Events folded. gaps: Sequences up to the last that are not in the lake: messages
            put aside as malformed, or else lost.
        examples: Some of the mismatches.
    """

    vectors: int = 0
    mismatches: int = 0
    degraded: int = 0
    events: int = 0
    gaps: int = 0
    examples: list[Mismatch] = field(default_factory=list)


def audit(lake: Lake) -> Audit:
    """Recompute every logged decision's vector from the raw events and compare bytes.

    Raises:
        OSError: S3 did not answer.
    """
    decisions = lake.read(DECISIONS_TABLE)
    events = _events(lake)
    if decisions is None or events is None:
        return Audit()
    return compare(events, decisions, log_tables(lake))


def _events(lake: Lake) -> Events | None:
    """All events up to the last transaction.

    Labels that are written while transactions are read would look like a gap before them; one that
    is there all the same is looked at again, for a batch is written table by table.
    """
    columns = ["event_time", *ENTITIES, "fraud"]
    for _ in range(_LOOKS):
        transactions = lake.read(TRANSACTIONS_TABLE)
        if transactions is None:
            return None
        so_far = pc.field("seq") <= int(transactions["seq"][-1].as_py())
        events = Events.from_tables(transactions, lake.read(LABELS_TABLE, columns, so_far))
        if not _gaps(events):
            break
        sleep(_LOOK_AGAIN_S)
    return events


def _gaps(events: Events) -> int:
    """Sequences up to the last that are missing."""
    return int(events.seq[-1]) - len(events)


def compare(
    events: Events, decisions: pa.Table, nights: Mapping[str, pa.Table | None] | None = None
) -> Audit:
    """Compare logged vectors with those that folding `events` gives.

    Args:
        events: All events up to and past the decisions, in stream order.
        decisions: Rows of `ingestion.DECISIONS`.
        nights: By view name, the log of the places in the graph.
    """
    logged = _seqs(decisions)
    rows = rows_at(events, decisions, logged)
    for view in GRAPH:
        rows[view.name] = _placed(decisions, view, logged[view.name], (nights or {}).get(view.name))
    own = own_frame(entity_frame(decisions))
    again = vectors(rows, own)
    seen = np.array(decisions["features"].to_pylist(), dtype=np.float64).reshape(len(decisions), -1)
    if seen.shape[1] != len(FEATURES):
        raise ValueError(f"decisions hold {seen.shape[1]} features, {len(FEATURES)} are known")
    differs = _bits(again) != _bits(seen)
    unfounded = _unfounded(rows, logged)
    wrong = np.nonzero(differs.any(axis=1) | unfounded)[0]
    return Audit(
        vectors=len(decisions),
        mismatches=len(wrong),
        events=len(events),
        gaps=_gaps(events),
        degraded=int(pc.sum(decisions["degraded"]).as_py() or 0),
        examples=[_example(decisions, int(i), differs[i], bool(unfounded[i])) for i in wrong[:10]],
    )


def rows_at(
    events: Events, decisions: pa.Table, logged: Mapping[str, Integers]
) -> dict[str, Floats]:
    """By state, (D, width): each decision's row as of the sequence it logged, -1 for unread.

    Each decision becomes a probe: an event that adds nothing, placed right behind the event it
    names. Probes differ by state, since a decision reads rows of different age.
    """
    rows = {}
    for state in STATES:
        needed = _with_probes(events, decisions, logged[state.name])
        # The device counts new pairs, so the pairs fold along with it.
        together = STATES if "new_customers" in state.measures else (state,)
        slots = np.where(needed.probe >= 0, needed.probe, -1)
        found = backfill(together, needed.events, contributions, slots)[state.name].before
        found[logged[state.name] < 0] = np.nan
        rows[state.name] = found
    return rows


def _placed(decisions: pa.Table, view: Embedding, logged: Integers, log: pa.Table | None) -> Floats:
    """(D, width): each decision's place as the night it names wrote it."""
    rows = np.full((len(decisions), view.width), np.nan)
    rows[logged == 0] = 0.0
    named = np.nonzero(logged > 0)[0]
    if log is None or not len(named):
        return rows
    key = view.keys[0]
    kept = log.to_pandas().assign(place=np.arange(len(log)))
    asked = pd.DataFrame({key: decisions[key].to_pandas()[named], SEQ_COLUMN: logged[named]})
    found = asked.merge(kept[[key, SEQ_COLUMN, "place"]], on=[key, SEQ_COLUMN], how="left")
    there = found["place"].notna().to_numpy()
    values = kept[view.name].iloc[found["place"][there].astype(np.int64)]
    rows[named[there]] = stack(values, view.width)
    return rows


@dataclass(frozen=True)
class _Probed:
    """Events with probes among them. probe: (N,) index of the decision, -1 for an event."""

    events: Events
    probe: Integers


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
            sighting=np.concatenate([events.sighting, none])[order],
            amount=np.concatenate([events.amount, nothing])[order],
            chargeback=np.concatenate([events.chargeback, none])[order],
            keys=keys,
        ),
        number[order],
    )


def _seqs(decisions: pa.Table) -> dict[str, Integers]:
    """By state, (D,) logged sequences, -1 where the row was not read."""
    logged = [dict(pairs) for pairs in decisions["seqs"].to_pylist()]
    names = [state.name for state in STATES] + [view.name for view in GRAPH]
    return {n: np.array([_known(d, n) for d in logged], dtype=np.int64) for n in names}


def _known(logged: Mapping[str, int | None], name: str) -> int:
    value = logged.get(name)
    return -1 if value is None else int(value)


def _unfounded(rows: Mapping[str, Floats], logged: Mapping[str, Integers]) -> np.ndarray:
    """(D,) whether a decision names a sequence that its entity's events do not have."""
    wrong = np.zeros(len(next(iter(logged.values()))), dtype=bool)
    for name, seqs in logged.items():
        found = np.nan_to_num(rows[name][:, SEQ], nan=-1.0)
        wrong |= (seqs >= 0) & (found != seqs)
    return wrong


def _bits(values: Floats) -> Integers:
    """The bytes of float64s as integers, every NaN alike: JSON has but one."""
    values = np.where(np.isnan(values), np.nan, values)
    return values.view(np.int64)


def _example(decisions: pa.Table, i: int, differs: np.ndarray, unfounded: bool) -> Mismatch:
    return Mismatch(
        decisions["transaction_id"][i].as_py(),
        decisions["decision_id"][i].as_py(),
        tuple(FEATURES[k] for k in np.nonzero(differs)[0]),
        "a logged sequence is not among the events" if unfounded else "the vector differs",
    )
