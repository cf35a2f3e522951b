"""Fold events that come as columns: a batch off the stream, or all of history at once.

The stream worker, the backfill and the skew audit all come through `fold_events`, and so through
the one kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from features.accumulators import fold
from features.spec import Booleans, Columns, Floats, Integers, Key, State


class EventColumns(Protocol):
    """N events as columns, in stream order; see the arguments of `fold`."""

    @property
    def seq(self) -> Integers: ...
    @property
    def time(self) -> Floats: ...
    @property
    def sighting(self) -> Booleans: ...
    @property
    def keys(self) -> Columns: ...
    def __len__(self) -> int: ...


# (state, events, first sightings by state name) -> (N, measures): what each event adds.
Contributions = Callable[[State, Any, Mapping[str, Booleans]], Floats]


def identify(state: State, columns: Columns) -> tuple[Integers, list[Key]]:
    """Number the entities among N events.

    Returns:
        (N,) index into the keys, -1 where a part of the key is null; and the distinct keys.
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


def fold_events(
    states: Sequence[State],
    events: EventColumns,
    rows: Mapping[str, Integers],
    tables: Mapping[str, Floats],
    contributions: Contributions,
    slots: Integers | None = None,
) -> dict[str, Floats]:
    """Fold N events into the tables of several states, in place.

    Args:
        rows, tables: By state name: (N,) rows of the events, and (K, width) states.
        contributions: What each event adds; may look at the first sightings of earlier states.
        slots: (N,) where to put each event's row as of before it, or -1; None for nowhere.

    Returns:
        By state name: (M, width) rows as of before the events that have a slot, M of them.
    """
    # One layout of arguments, one compiled version: columns out of Arrow are read-only.
    seq = np.require(events.seq, np.int64, ["C", "W"])
    time = np.require(events.time, np.float64, ["C", "W"])
    sighting = np.require(events.sighting, np.bool_, ["C", "W"])
    nowhere = np.full(len(events), -1, dtype=np.int64)
    slots = nowhere if slots is None else slots
    count = int(slots.max(initial=-1)) + 1
    first: dict[str, Booleans] = {}
    before: dict[str, Floats] = {}
    for state in states:
        first[state.name] = np.zeros(len(events), dtype=np.bool_)
        before[state.name] = np.empty((count, state.width))
        fold(
            tables[state.name], rows[state.name], seq, time, sighting,
            contributions(state, events, first), slots, before[state.name], first[state.name],
        )  # fmt: skip
    return before


@dataclass(frozen=True)
class Backfilled:
    """The outcome for one state.

    Attributes:
        keys: The K entities seen. table: (K, width) their states after the last event.
        rows: (N,) which of them each event touched, -1 for none.
        before: (M, width) rows as of before the events that had a slot.
    """

    state: State
    keys: list[Key]
    table: Floats
    rows: Integers
    before: Floats


def backfill(
    states: Sequence[State],
    events: EventColumns,
    contributions: Contributions,
    slots: Integers | None = None,
) -> dict[str, Backfilled]:
    """Fold N events, in stream order, into states that start empty.

    Args:
        slots: (N,) where to keep the row as of before an event, -1 for nowhere.
    """
    identified = {state.name: identify(state, events.keys) for state in states}
    rows = {name: codes for name, (codes, _) in identified.items()}
    tables = {s.name: np.zeros((len(identified[s.name][1]), s.width)) for s in states}
    before = fold_events(states, events, rows, tables, contributions, slots)
    return {
        s.name: Backfilled(s, identified[s.name][1], tables[s.name], rows[s.name], before[s.name])
        for s in states
    }
