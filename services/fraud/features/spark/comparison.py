"""What another engine wrote, against a fold in this process, byte by byte.

Rows are compared entity by entity, the state log event by event. Events before the time from which
states are logged are left out of the log's comparison: which of them are logged for an entity
depends on where chunks end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.aggregation import RowTable
from features.spec import SEQ_COLUMN, TIME_COLUMN, Key, State
from features.state_log import log_folder, log_tables, stack
from services.fraud.features.lake_fold import Folded, chunks, fold_chunk
from services.fraud.features.states import STATES
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.progress import ProgressCallback
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats


@dataclass
class Compared:
    """What was compared.

    Attributes:
        entities: Rows compared, of all states.
        logged: Rows of the state log compared.
        mismatches: Rows that differ in a byte, or that one side lacks.
    """

    entities: int = 0
    logged: int = 0
    mismatches: int = 0


def compare(
    lake: Lake, last_seq: int, folded: Folded, with_log: bool, step: ProgressCallback
) -> Compared:
    """Fold the lake's events here, and compare rows and log with what is written.

    In memory are all rows, as in `whiteboard rebuild`.

    Raises:
        OSError: S3 did not answer.
    """
    found = Compared()
    tables = {state.name: RowTable(state) for state in STATES}
    logs = {state.name: _log_reader(lake, state) for state in STATES} if with_log else {}
    for begin, events, since in chunks(lake, last_seq):
        end = int(events.seq[-1])
        for here in fold_chunk(STATES, tables, events):
            if reader := logs.get(here.state.name):
                expected = _joined(list(log_tables(events, here, since)))
                written = reader.between(begin, end)
                _compare_log(here.state, expected, written, since, found)
        step(end, last_seq)
    for state in STATES:
        _compare_rows(lake, folded, tables[state.name], found)
    return found


def _compare_rows(lake: Lake, folded: Folded, table: RowTable, found: Compared) -> None:
    expected = dict(zip(table.keys, table.rows, strict=True))
    for key, row in _rows(lake, folded, table.state):
        here = expected.pop(key, None)
        found.entities += 1
        found.mismatches += here is None or here.tobytes() != row.tobytes()
    found.entities += len(expected)
    found.mismatches += len(expected)


def _rows(lake: Lake, folded: Folded, state: State) -> Iterator[tuple[Key, Floats]]:
    for file in lake.files(folded.offer.table(state)):
        rows = pq.read_table(file, filesystem=lake.filesystem)
        keys = zip(*(rows[key].to_pylist() for key in state.keys), strict=True)
        yield from zip(keys, stack(rows[state.name].to_pandas(), state.width), strict=True)


def _log_reader(lake: Lake, state: State) -> SequenceReader:
    return SequenceReader(lake, f"{STATE_LOG}/{log_folder(state)}")


def _joined(tables: list[pa.Table]) -> pa.Table | None:
    return pa.concat_tables(tables) if tables else None


def _compare_log(
    state: State, expected: pa.Table | None, written: pa.Table | None, since: float, found: Compared
) -> None:
    here, there = (_from(rows, since) for rows in (expected, written))
    # Almost always. `equals` does not tell 0.0 from -0.0, and the bytes do.
    if here is not None and there is not None and here.equals(there.cast(here.schema)):
        found.logged += len(here)
        found.mismatches += _different(state, here, there)
        return
    rows, others = (_by_sequence(state, one) for one in (here, there))
    both = set(rows) | set(others)
    found.logged += len(both)
    found.mismatches += sum(rows.get(seq) != others.get(seq) for seq in both)


def _from(rows: pa.Table | None, since: float) -> pa.Table | None:
    """A log's rows of events from a time on; None without any."""
    if rows is None:
        return None
    first = pa.scalar(round(since * 1e6), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    found = rows.filter(pc.greater_equal(rows[TIME_COLUMN], first)).combine_chunks()
    return found if len(found) else None


def _states(state: State, rows: pa.Table) -> Floats:
    flat = pc.list_flatten(rows[state.name]).to_numpy()
    return np.ascontiguousarray(flat.reshape(len(rows), state.width))


def _different(state: State, rows: pa.Table, others: pa.Table) -> int:
    """How many of two tables' equally many states differ in a byte."""
    here, there = (_states(state, one).view(np.int64) for one in (rows, others))
    return int((here != there).any(axis=1).sum())


def _by_sequence(state: State, rows: pa.Table | None) -> dict[int, bytes]:
    """By sequence, the bytes of a log's row: its keys, time and state."""
    if rows is None:
        return {}
    times = rows[TIME_COLUMN].cast(pa.int64()).to_pylist()
    keys = zip(*(rows[key].to_pylist() for key in state.keys), strict=True)
    columns = rows[SEQ_COLUMN].to_pylist(), keys, times, _states(state, rows)
    return {
        seq: f"{key} {time} ".encode() + row.tobytes()
        for seq, key, time, row in zip(*columns, strict=True)
    }
