"""Accumulators: what is stored is a state, what a model sees is a reading of it at request time.

A window written to a store is stale the moment time moves on. A state is not: the time-decayed sum

    s(t) = s(t0) * 2 ** (-(t - t0) / h)

can be read at any later t, exactly. `fold` is the only function that changes a state and `decayed`
the only one that reads a sum, offline and online alike, so the two cannot drift apart.

How a row is laid out is in `features/spec.py`.

Source: forward decay, Cormode et al., "Forward Decay: A Practical Time Decay Model for Streaming
Systems", ICDE 2009 (exponential case).
"""

import numpy as np

from features.jit import compiled
from features.spec import (
    FIRST_SEQ,
    HALF_LIVES,
    LAST_SEEN,
    SEQ,
    SUMS,
    TIME,
    Booleans,
    Floats,
    Integers,
)


@compiled
def decayed(row: Floats, index: int, half_life: float, t: float) -> float:
    """Read the sum at `index` of a state row as of event time `t` (seconds).

    A reading from before the state's own time (a late request) sees the state as it stands:
    the future cannot be taken out of a sum, and growing it would be worse.
    """
    age = t - row[TIME]
    if age <= 0.0:
        return row[index]
    return row[index] * np.exp2(-age / half_life)


@compiled
def _add(row: Floats, time: float, values: Floats) -> None:
    """Fold one event into a row. A late event adds its value decayed to the row's own time."""
    age = time - row[TIME]
    for h in range(HALF_LIVES.size):
        factor = np.exp2(-abs(age) / HALF_LIVES[h])
        for m in range(values.size):
            i = SUMS + m * HALF_LIVES.size + h
            if age >= 0.0:
                row[i] = row[i] * factor + values[m]
            else:
                row[i] += values[m] * factor
    if age > 0.0:
        row[TIME] = time


@compiled
def fold(
    table: Floats,
    rows: Integers,
    seqs: Integers,
    times: Floats,
    sightings: Booleans,
    values: Floats,
    slots: Integers,
    before: Floats,
    first: Booleans,
) -> None:
    """Fold N events into a table of states, in the order given.

    An event at or below its row's `seq` was applied before and changes nothing, so redelivery is
    harmless. An event with seq 0 is thereby a probe: it only reads.

    Args:
        table: (K, width) states, changed in place.
        rows: (N,) index into `table`, or -1 where the event has no such entity.
        seqs: (N,) stream sequence of each event, rising but for probes.
        times: (N,) event time, seconds since the epoch.
        sightings: (N,) true for a transaction, false for a label.
        values: (N, measures) what each event adds.
        slots: (N,) index into `before`, or -1 to leave the event's row out.
        before: (M, width) receives rows as they were before their event, NaN without entity.
        first: (N,) receives whether the event is the entity's first sighting. It stays true when
            the same event is delivered again.
    """
    for n in range(rows.size):
        if rows[n] < 0:
            first[n] = False
            if slots[n] >= 0:
                before[slots[n], :] = np.nan
            continue
        row = table[rows[n]]
        if slots[n] >= 0:
            before[slots[n], :] = row
        first[n] = sightings[n] and (row[FIRST_SEQ] == 0.0 or row[FIRST_SEQ] == seqs[n])
        if seqs[n] <= row[SEQ]:
            continue
        _add(row, times[n], values[n])
        row[SEQ] = seqs[n]
        if sightings[n]:
            row[LAST_SEEN] = max(row[LAST_SEEN], times[n])
            if row[FIRST_SEQ] == 0.0:
                row[FIRST_SEQ] = seqs[n]
