"""Backfill: the states that past events give, for the state log in the lake and for Redis.

Backfilled events take sequences 1..N and the stream begins at N + 1, so that both form one
sequence and any state can be rebuilt from the lake alone.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.aggregation import BackfilledState, backfill
from features.online.table import OnlineTable
from features.state_log import write_log
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import STATES, TABULAR
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.progress import ProgressCallback
from services.platform.storage.lake import Lake
from services.platform.types import Floats

# States are logged for training from this day of the data on: the sums must settle first.
WARM_UP_DAYS = 10
_ROWS_PER_WRITE = 20_000


def backfill_states(events: Events) -> dict[str, BackfilledState]:
    """By state name, the states after all events, with a snapshot before each of the N events."""
    return backfill(STATES, events, np.arange(len(events)))


def vectors_before(states: Mapping[str, BackfilledState], rows: pa.Table) -> Floats:
    """Feature vectors of backfilled transactions as of just before each, (N, len(TABULAR)).

    Args:
        states: By state name, as `backfill_states` returns them.
        rows: N transactions of the lake; backfilled events have the sequences 1, 2, ...
    """
    at = rows["seq"].to_numpy() - 1
    before = {name: done.snapshots[at] for name, done in states.items()}
    return feature_vectors(before, request_columns(rows))[:, : len(TABULAR)]


def write_states(
    lake: Lake,
    events: Events,
    states: dict[str, BackfilledState],
    since: float,
) -> None:
    """Write the state log from event time `since` (seconds) on, for training."""
    for state in states.values():
        write_log(lake, STATE_LOG, events, state, since)


def load_online(
    tables: dict[str, OnlineTable], states: dict[str, BackfilledState], step: ProgressCallback
) -> None:
    """Write the final states to the online store."""
    total = sum(len(state.keys) for state in states.values())
    count = 0
    for name, state in states.items():
        for begin in range(0, len(state.keys), _ROWS_PER_WRITE):
            part = slice(begin, begin + _ROWS_PER_WRITE)
            tables[name].store(state.keys[part], state.table[part])
            count += len(state.keys[part])
            step(count, total)
