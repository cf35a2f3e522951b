"""Accumulators: Redis stores a state per entity; features are computed from it at request time.

A window aggregate written to a store is out of date as soon as time moves on. A state is not: the
time-decayed sum

    s(t) = s(t0) * 2 ** (-(t - t0) / h)

can be read at any later t, exactly. `fold` is the only function that changes a state and `decay`
the only one that sums are read with, offline and online alike, so training and serving cannot
differ.

`features/spec.py` describes the layout of a row.

Source: forward decay, Cormode et al., "Forward Decay: A Practical Time Decay Model for Streaming
Systems", ICDE 2009 (exponential case).
"""

import numpy as np

from features.jit import jit
from features.spec import FIRST_SEQ, HALF_LIVES, LAST_SEEN, SEQ, SUMS, TIME
from services.platform.types import Booleans, Floats, Integers

# A constant for the compiler; each measure's block of sums is in this order.
_HALF_LIVES = np.array(list(HALF_LIVES.values()))


@jit
def decay(row: Floats, half_life: float, t: float) -> float:
    """What to multiply a sum of a state row with, to read it as of event time `t` (seconds).

    For `t` before the state's own time (a late request) the sum is read as stored: events cannot
    be removed from a sum, and growing it would be worse.

    >>> row = np.zeros(SUMS + 4)
    >>> row[TIME] = 1000.0
    >>> decay(row, 3600.0, 1000.0 + 7200.0), decay(row, 3600.0, 0.0)
    (0.25, 1.0)
    """
    age = t - row[TIME]
    if age <= 0.0:
        return 1.0
    return np.exp2(-age / half_life)


@jit
def _add(row: Floats, time: float, values: Floats) -> None:
    """Add one event's values (measures,) to a row.

    A late event is decayed to the row's own time before it is added.
    """
    age = time - row[TIME]
    for h in range(_HALF_LIVES.size):
        factor = np.exp2(-abs(age) / _HALF_LIVES[h])
        for m in range(values.size):
            i = SUMS + m * _HALF_LIVES.size + h
            if age >= 0.0:
                row[i] = row[i] * factor + values[m]
            else:
                row[i] += values[m] * factor
    if age > 0.0:
        row[TIME] = time


@jit
def fold(
    table: Floats,
    rows: Integers,
    seqs: Integers,
    times: Floats,
    is_transaction: Booleans,
    values: Floats,
    snapshot_index: Integers,
    snapshots: Floats,
    first: Booleans,
) -> None:
    """Fold N events into a table of states, in the order given.

    An event at or below its row's `seq` was applied before and changes nothing, so redelivery is
    harmless. An event with seq 0 is therefore a probe: it only reads.

    Args:
        table: (K, width) states, changed in place.
        rows: (N,) index into `table`, or -1 where the event has no such entity.
        seqs: (N,) stream sequence of each event, ascending except for probes.
        times: (N,) event time, seconds since the epoch.
        is_transaction: (N,) true for a transaction, false for a label.
        values: (N, measures) what each event adds.
        snapshot_index: (N,) index into `snapshots`, or -1 to take no snapshot at this event.
        snapshots: (M, width) receives rows as they were before their event, NaN without entity.
        first: (N,) receives whether the event is the entity's first transaction. It stays true
            when the same event is delivered again.
    """
    for n in range(rows.size):
        if rows[n] < 0:
            first[n] = False
            if snapshot_index[n] >= 0:
                snapshots[snapshot_index[n], :] = np.nan
            continue
        row = table[rows[n]]
        if snapshot_index[n] >= 0:
            snapshots[snapshot_index[n], :] = row
        first[n] = is_transaction[n] and (row[FIRST_SEQ] == 0.0 or row[FIRST_SEQ] == seqs[n])
        if seqs[n] <= row[SEQ]:
            continue
        _add(row, times[n], values[n])
        row[SEQ] = seqs[n]
        if is_transaction[n]:
            row[LAST_SEEN] = max(row[LAST_SEEN], times[n])
            if row[FIRST_SEQ] == 0.0:
                row[FIRST_SEQ] = seqs[n]
