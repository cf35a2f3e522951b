"""The rows that a decision logged, recomputed from events: what the skew audit compares."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.aggregation import RowTable, fold_rows
from features.spec import SEQ, SEQ_COLUMN, Embedding
from features.state_log import stack
from services.fraud.features.states import EMBEDDINGS, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import ENTITIES
from services.platform.types import Booleans, Floats, Integers

Tables = dict[str, RowTable]


def empty_tables() -> Tables:
    """By state name, rows before the first event."""
    return {state.name: RowTable(state) for state in STATES}


def advance(tables: Tables, events: Events) -> None:
    """Fold events into the rows."""
    fold_rows(STATES, tables, events)


def logged_seqs(decisions: pa.Table) -> dict[str, Integers]:
    """By view name, (D,) logged sequences, -1 for a row that was not read."""
    logged = [dict(pairs) for pairs in decisions["seqs"].to_pylist()]
    names = [state.name for state in STATES] + [view.name for view in EMBEDDINGS]
    return {n: np.array([_known(d, n) for d in logged], dtype=np.int64) for n in names}


def newest_seq(logged: Mapping[str, Integers]) -> Integers:
    """(D,) the newest sequence of a state that each decision logged, at least 0."""
    return np.maximum(np.max([logged[state.name] for state in STATES], axis=0), 0)


def rows_within(
    tables: Tables, events: Events, decisions: pa.Table, logged: Mapping[str, Integers]
) -> dict[str, Floats]:
    """By state name, (D, width): each decision's row as of the sequence that it logged.

    Right where that sequence is among `events`, or where the entity has had no event between it
    and them; elsewhere the row holds another sequence than the logged one. The tables stay.

    Each decision becomes a probe: an event that adds nothing, directly after the event whose
    sequence it logged. Probes differ by state, since a decision reads rows of different ages.

    Args:
        tables: The rows before the first of `events`.
    """
    rows = {}
    for state in STATES:
        wanted = logged[state.name]
        probed = _with_probes(events, decisions, wanted)
        folded = fold_rows(state.together, tables, probed.events, probed.decision, keep=False)
        found = folded[state.name]
        # Nothing was read; or the row did not exist yet, whatever the entity has had since.
        found[wanted < 0] = np.nan
        found[(wanted == 0) & ~np.isnan(found[:, SEQ])] = 0.0
        rows[state.name] = found
    return rows


def embedding_rows(
    decisions: pa.Table, view: Embedding, logged: Integers, log: pa.Table | None
) -> Floats:
    """(D, width): each decision's embedding from the snapshot whose sequence it logged."""
    rows = np.full((len(decisions), view.width), np.nan)
    rows[logged == 0] = 0.0
    read = np.nonzero(logged > 0)[0]
    if log is None or not len(read):
        return rows
    key = view.keys[0]
    wanted_keys = decisions[key].take(pa.array(read))
    # Of the parties of all snapshots, only those that were read.
    present = pc.is_in(log[key], pc.unique(wanted_keys))
    entries = log.filter(present).to_pandas()
    entries = entries.assign(entry=np.arange(len(entries)))
    wanted = pd.DataFrame({key: wanted_keys.to_pandas(), SEQ_COLUMN: logged[read]})
    found = wanted.merge(entries[[key, SEQ_COLUMN, "entry"]], on=[key, SEQ_COLUMN], how="left")
    known = found["entry"].notna().to_numpy()
    values = entries[view.name].iloc[found["entry"][known].astype(np.int64)]
    rows[read[known]] = stack(values, view.width)
    return rows


def differing_seqs(rows: Mapping[str, Floats], logged: Mapping[str, Integers]) -> Booleans:
    """(D,) whether a row holds another sequence than the decision logged."""
    wrong = np.zeros(len(next(iter(logged.values()))), dtype=bool)
    for name, found in rows.items():
        seqs = np.nan_to_num(found[:, SEQ], nan=-1.0)
        wrong |= (logged[name] >= 0) & (seqs != logged[name])
    return wrong


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


def _known(logged: Mapping[str, int | None], name: str) -> int:
    value = logged.get(name)
    return -1 if value is None else int(value)
