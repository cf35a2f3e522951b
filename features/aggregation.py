"""Fold events that come as columns: a batch off the stream, or the whole history at once.

The feature worker, the backfill and the skew audit all call `fold_events`, and so share one kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Protocol

import numpy as np
import pandas as pd

from features.accumulators import fold
from features.expressions import parse
from features.spec import Key, KeyColumns, State
from services.platform.types import Booleans, Floats, Integers


class EventColumns(Protocol):
    """N events as columns, in stream order; see the arguments of `fold`."""

    @property
    def seq(self) -> Integers:
        """(N,) stream sequence."""

    @property
    def time(self) -> Floats:
        """(N,) event time, UTC seconds."""

    @property
    def is_transaction(self) -> Booleans:
        """(N,) true for a transaction, false for a label."""

    @property
    def values(self) -> Mapping[str, Floats]:
        """By name, the (N,) columns that measures read."""

    @property
    def keys(self) -> KeyColumns:
        """For each entity, its (N,) keys, None where absent."""

    def __len__(self) -> int: ...


def contributions(state: State, events: EventColumns, first: Mapping[str, Booleans]) -> Floats:
    """What each of N events adds to a state, (N, measures).

    Args:
        first: By state name, (N,) whether an event is its entity's first transaction.
    """
    out = np.empty((len(events), len(state.measures)))
    for column, measure in enumerate(state.measures):
        known = {"__builtins__": {}, **events.values}
        if measure.first_of is not None:
            known["first"] = first[measure.first_of.name].astype(np.float64)
        out[:, column] = eval(_code(measure.value), known)
    return out


@cache
def _code(expression: str) -> CodeType:
    return compile(parse(expression), expression, "eval")


def identify(state: State, columns: KeyColumns) -> tuple[Integers, list[Key]]:
    """Number the distinct entities among N events.

    Returns:
        (N,) index into the keys, -1 where a part of the key is null; and the distinct keys.

    >>> pair = State("pair", ("customer", "device"), (), shard="device")
    >>> codes, keys = identify(pair, {"customer": ["a", "b", "a"], "device": ["x", None, "x"]})
    >>> codes.tolist(), keys
    ([0, -1, 0], [('a', 'x')])
    """
    codes, uniques = pd.factorize(np.asarray(columns[state.keys[0]], dtype=object))
    keys: list[Key] = [(k,) for k in uniques]
    for column in state.keys[1:]:
        other, names = pd.factorize(np.asarray(columns[column], dtype=object))
        joint = np.where((codes < 0) | (other < 0), -1, codes * len(names) + other)
        distinct = np.unique(joint[joint >= 0])
        codes = np.where(joint < 0, -1, np.searchsorted(distinct, joint))
        keys = [(*keys[d // len(names)], names[d % len(names)]) for d in distinct]
    return codes.astype(np.int64), keys


def select_rows(rows: Integers, keys: list[Key], chosen: list[bool]) -> tuple[Integers, list[Key]]:
    """Leave out entities, from the result of `identify`.

    Args:
        chosen: By entity, whether it stays.

    >>> rows, keys = select_rows(np.array([1, 0, -1]), [("a",), ("b",)], [False, True])
    >>> rows.tolist(), keys
    ([0, -1, -1], [('b',)])
    """
    # The last is for rows of -1.
    places = np.append(np.where(chosen, np.cumsum(chosen) - 1, -1), -1).astype(np.int64)
    return places[rows], [key for key, stays in zip(keys, chosen, strict=True) if stays]


def fold_events(
    states: Sequence[State],
    events: EventColumns,
    rows: Mapping[str, Integers],
    tables: Mapping[str, Floats],
    snapshot_index: Integers | None = None,
) -> dict[str, Floats]:
    """Fold N events into the tables of several states, in place.

    Args:
        rows: By state name, (N,) row of each event, -1 for none.
        tables: By state name, (K, width) states.
        snapshot_index: (N,) where to store each event's row as of before it, -1 for no snapshot;
            None for no snapshots at all.

    Returns:
        By state name, (M, width) snapshots: the rows as of before each event that has an index.
    """
    # Numba compiles one version per array layout; columns that come from Arrow are read-only.
    seq = np.require(events.seq, np.int64, ["C", "W"])
    time = np.require(events.time, np.float64, ["C", "W"])
    is_transaction = np.require(events.is_transaction, np.bool_, ["C", "W"])
    if snapshot_index is None:
        snapshot_index = np.full(len(events), -1, dtype=np.int64)
    count = int(snapshot_index.max(initial=-1)) + 1
    first: dict[str, Booleans] = {}
    snapshots: dict[str, Floats] = {}
    for state in states:
        first[state.name] = np.zeros(len(events), dtype=np.bool_)
        snapshots[state.name] = np.empty((count, state.width))
        fold(
            tables[state.name], rows[state.name], seq, time, is_transaction,
            contributions(state, events, first), snapshot_index, snapshots[state.name],
            first[state.name],
        )  # fmt: skip
    return snapshots


@dataclass(frozen=True)
class BackfilledState:
    """One state's rows after a backfill of N events.

    Attributes:
        state: The state.
        keys: The K distinct entities.
        table: (K, width) rows after the last event.
        rows: (N,) index into `table` for each event, -1 for none.
        snapshots: (M, width) rows as of before the events that have a snapshot index.
    """

    state: State
    keys: list[Key]
    table: Floats
    rows: Integers
    snapshots: Floats


def backfill(
    states: Sequence[State],
    events: EventColumns,
    snapshot_index: Integers | None = None,
) -> dict[str, BackfilledState]:
    """Fold N events, in stream order, into states that start empty. By state name.

    Args:
        snapshot_index: (N,) where to store the row as of before an event, -1 for no snapshot.
    """
    identified = {state.name: identify(state, events.keys) for state in states}
    rows = {name: codes for name, (codes, _) in identified.items()}
    tables = {s.name: np.zeros((len(identified[s.name][1]), s.width)) for s in states}
    snapshots = fold_events(states, events, rows, tables, snapshot_index)
    return {
        s.name: BackfilledState(
            s, identified[s.name][1], tables[s.name], rows[s.name], snapshots[s.name]
        )
        for s in states
    }


class RowTable:
    """The rows of one state, growing with its entities."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._index: dict[Key, int] = {}
        self._rows = np.zeros((1024, state.width))

    @property
    def keys(self) -> list[Key]:
        """The K entities."""
        return list(self._index)

    @property
    def rows(self) -> Floats:
        """(K, width) rows."""
        return self._rows[: len(self._index)]

    def positions(self, keys: list[Key]) -> list[int]:
        """Where the rows of entities are; entities that are new get a row of zeros."""
        found = [self._index.setdefault(key, len(self._index)) for key in keys]
        while len(self._index) > len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        return found

    def load(self, positions: list[int]) -> Floats:
        """A copy of some rows (K, width)."""
        return self._rows[positions]

    def store(self, positions: list[int], rows: Floats) -> None:
        """Replace some rows (K, width)."""
        self._rows[positions] = rows


def fold_rows(
    states: Sequence[State],
    tables: Mapping[str, RowTable],
    events: EventColumns,
    snapshot_index: Integers | None = None,
    keep: bool = True,
) -> dict[str, Floats]:
    """`fold_events` on rows that grow with their entities.

    Args:
        keep: Whether the rows go on from here; else only the snapshots are wanted.
    """
    identified = {state.name: identify(state, events.keys) for state in states}
    positions = {name: tables[name].positions(keys) for name, (_, keys) in identified.items()}
    rows = {name: codes for name, (codes, _) in identified.items()}
    parts = {name: tables[name].load(found) for name, found in positions.items()}
    snapshots = fold_events(states, events, rows, parts, snapshot_index)
    if keep:
        for name, part in parts.items():
            tables[name].store(positions[name], part)
    return snapshots
