"""The fold of the lake's events: rows of all states as of a sequence, and the state log.

`fold_here` does it in this process, a chunk of the stream at a time: in memory are the events and
snapshots of one chunk, and all rows. `services/fraud/features/spark` does it on Spark, by
`fold_chunk` too. Both leave the log in the lake, and the rows where `rebuild` offers them from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np

from features.aggregation import BackfilledState, RowTable, fold_events, identify
from features.spec import DAY, State
from features.state_log import log_folder, row_table, write_log
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.ownership.handover import Offer
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import EventReader, Events
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.storage.lake import Lake

# Events per chunk; its snapshots take about 200 MB.
_CHUNK = 200_000
_ROWS_PER_FILE = 100_000


@dataclass(frozen=True)
class ShardLoad:
    """How much work the shards of an entity type were.

    Attributes:
        shards: How many there were.
        median_events, max_events: Events of the median and of the largest shard.
        median_s, max_s: Processor seconds that it took to fold them.
    """

    shards: int
    median_events: int
    max_events: int
    median_s: float
    max_s: float


@dataclass(frozen=True)
class Folded:
    """What a fold of the lake's events wrote.

    Attributes:
        offer: Its rows, in the lake, not offered yet.
        events: Events folded.
        entities: By state name, how many entities have a row.
        shards: By entity type, the load of its shards, where the fold had some.
    """

    offer: Offer
    events: int
    entities: dict[str, int]
    shards: Mapping[str, ShardLoad] = field(default_factory=dict)


# Folds the lake's events up to a sequence; writes the state log and the rows to offer.
Fold = Callable[[Lake, int, ProgressBar], Folded]


def fold_here(lake: Lake, last_seq: int, bar: ProgressBar) -> Folded:
    """Fold in this process. Raises as `fold_lake`."""
    with bar("folding the lake's events") as step:
        tables, count = fold_lake(lake, last_seq, step)
    with bar("writing the rows") as step:
        offer = new_offer(last_seq)
        for number, table in enumerate(tables.values(), start=1):
            write_rows(lake, offer, table, "part")
            step(number, len(tables))
    return Folded(offer, count, {name: len(table.keys) for name, table in tables.items()})


def fold_lake(lake: Lake, last_seq: int, step: ProgressCallback) -> tuple[dict[str, RowTable], int]:
    """Fold the lake's events up to a sequence and write the state log.

    Returns:
        By state name, the rows; and the number of events.

    Raises:
        ValueError: the lake has no events where it should.
        OSError: S3 did not answer.
    """
    tables = {state.name: RowTable(state) for state in STATES}
    count = 0
    for begin, events, since in chunks(lake, last_seq):
        for folded in fold_chunk(STATES, tables, events):
            write_log(lake, STATE_LOG, events, folded, since, f"seq-{begin:012d}")
        count += len(events)
        step(min(begin + _CHUNK, last_seq), last_seq)
    for state in STATES:
        keep_log_files(lake, state, lambda file: "/seq-" in file)
    return tables, count


def fold_chunk(
    states: Sequence[State], tables: dict[str, RowTable], events: Events
) -> Iterator[BackfilledState]:
    """Fold a chunk of events, and return each state's part that the chunk touched."""
    identified = {state.name: identify(state, events.keys) for state in states}
    positions = {name: tables[name].positions(keys) for name, (_, keys) in identified.items()}
    rows = {name: codes for name, (codes, _) in identified.items()}
    parts = {name: tables[name].load(found) for name, found in positions.items()}
    snapshots = fold_events(states, events, rows, parts, np.arange(len(events)))
    for state in states:
        name = state.name
        tables[name].store(positions[name], parts[name])
        yield BackfilledState(state, identified[name][1], parts[name], rows[name], snapshots[name])


def chunks(lake: Lake, last_seq: int) -> Iterator[tuple[int, Events, float]]:
    """(sequence before the chunk, its events, event time from which states are logged)."""
    if not last_seq:
        return  # the stream holds all events
    reader = EventReader(lake)
    oldest = reader.begin(last_seq)
    if oldest is None:
        raise ValueError(f"the lake holds no events up to {last_seq}: it was lost")
    for begin in range(0, last_seq, _CHUNK):
        events = Events.from_tables(*reader.between(begin, min(begin + _CHUNK, last_seq)))
        if len(events):
            yield begin, events, oldest + WARM_UP_DAYS * DAY


def new_offer(last_seq: int) -> Offer:
    """An offer of all states' rows as of a sequence, in a folder of its own."""
    hashes = {state.name: state.hash for state in STATES}
    return Offer(f"{last_seq:012d}-{uuid4().hex[:8]}", last_seq, hashes)


def write_rows(lake: Lake, offer: Offer, table: RowTable, name: str) -> None:
    """Write rows of a state into an offer's folder, in files whose names begin with `name`."""
    keys, rows = table.keys, table.rows
    # One file at least: a folder that is missing is an offer whose rows were removed.
    for begin in range(0, max(len(keys), 1), _ROWS_PER_FILE):
        part = slice(begin, begin + _ROWS_PER_FILE)
        written = row_table(table.state, keys[part], rows[part])
        where = offer.table(table.state)
        lake.write(where, written, f"{name}-{begin:09d}", partition=False)


def keep_log_files(lake: Lake, state: State, is_kept: Callable[[str], bool]) -> None:
    """Remove the files of a state's log that another fold wrote: the new ones hold their rows."""
    for file in lake.files(f"{STATE_LOG}/{log_folder(state)}"):
        if not is_kept(file):
            lake.filesystem.delete_file(file)
