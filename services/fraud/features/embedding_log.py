"""Nightly snapshots of the graph embeddings, and their log in the lake. No torch in here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from features.spec import DAY, SEQ, TIME, VALUES, Embedding, Key
from features.state_log import log_folder, row_table
from services.fraud.features.graph import TransactionLog
from services.fraud.features.states import EMBEDDING_SIZE, EMBEDDINGS
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats, Floats32, Integers


@dataclass(frozen=True)
class EmbeddingSnapshot:
    """The embeddings of all parties as of one moment.

    Attributes:
        at: Event time, seconds.
        last_seq: Sequence of the last transaction in the graph, 0 for none.
        values: By view name, (K, EMBEDDING_SIZE), NaN for parties without an edge.
    """

    at: float
    last_seq: int
    values: Mapping[str, Floats]


def midnights(begin: float, end: float) -> list[float]:
    """Midnights within [begin, end), UTC, seconds since the epoch.

    >>> midnights(1.0, 2 * DAY)
    [86400.0]
    """
    first = np.ceil(begin / DAY)
    return [float(day) * DAY for day in np.arange(first, np.ceil(end / DAY))]


def write_embedding_columns(
    log: TransactionLog, rows: Integers, snapshots: Iterable[EmbeddingSnapshot], out: Floats32
) -> None:
    """Write transactions' embeddings in the snapshots of their days, NaN where there are none.

    Args:
        rows: (N,) indices into the log.
        snapshots: One per day, as of the midnight that begins the day.
        out: (N, len(EMBEDDING_FEATURES)).
    """
    out[:] = np.nan
    time = log.time[rows]
    for snapshot in snapshots:
        [today] = np.nonzero((time >= snapshot.at) & (time < snapshot.at + DAY))
        for number, view in enumerate(EMBEDDINGS):
            codes = log.codes[view.keys[0]][rows[today]]
            values = np.where(codes[:, None] >= 0, snapshot.values[view.name][codes], np.nan)
            out[today, number * EMBEDDING_SIZE : (number + 1) * EMBEDDING_SIZE] = values


def cold_start(log: TransactionLog, rows: Integers, columns: Floats32) -> Booleans:
    """(N,) whether any party of a transaction had no embedding.

    Args:
        rows: (N,) indices into the log.
        columns: (N, len(EMBEDDING_FEATURES)), of `write_embedding_columns`.
    """
    missing = np.isnan(columns[:, ::EMBEDDING_SIZE])
    present = np.column_stack([log.codes[view.keys[0]][rows] >= 0 for view in EMBEDDINGS])
    return np.asarray((missing & present).any(axis=1))


def snapshot_rows(
    log: TransactionLog, snapshot: EmbeddingSnapshot, view: Embedding
) -> tuple[list[Key], Floats]:
    """The K parties that a snapshot has embeddings of, and their rows (K, width)."""
    values = snapshot.values[view.name]
    known = np.nonzero(~np.isnan(values[:, 0]))[0]
    rows = np.empty((len(known), view.width))
    # Sequence 0 means that a row was never written, so a snapshot without transactions gets 1.
    rows[:, SEQ], rows[:, TIME] = max(snapshot.last_seq, 1), snapshot.at
    rows[:, VALUES:] = values[known]
    return [(str(key),) for key in log.keys[view.keys[0]][known]], rows


def write_embedding_log(lake: Lake, log: TransactionLog, snapshot: EmbeddingSnapshot) -> None:
    """Append a snapshot to the log."""
    for view in EMBEDDINGS:
        table = row_table(view, *snapshot_rows(log, snapshot, view))
        name = _name(snapshot.last_seq)
        lake.write(f"{STATE_LOG}/{log_folder(view)}", table, name, partition=False)


def is_logged(lake: Lake, last_seq: int) -> bool:
    """Whether a snapshot with this last sequence was logged. OSError if S3 did not answer."""
    folders = (f"{STATE_LOG}/{log_folder(view)}" for view in EMBEDDINGS)
    return all(lake.exists(f"{folder}/{_name(last_seq)}.parquet") for folder in folders)


def _name(last_seq: int) -> str:
    return f"{last_seq:012d}"


def read_embedding_log(lake: Lake) -> dict[str, pa.Table | None]:
    """By view name, all logged embeddings; None before the first snapshot."""
    # Not `Lake.read`, which keeps one row per sequence: all parties of a snapshot share one.
    files = {view.name: lake.files(f"{STATE_LOG}/{log_folder(view)}") for view in EMBEDDINGS}
    return {
        name: ds.dataset(found, filesystem=lake.filesystem).to_table() if found else None
        for name, found in files.items()
    }


def read_snapshots(lake: Lake, view: Embedding, seqs: Sequence[int]) -> pa.Table | None:
    """Logged embeddings of the snapshots with some sequences; None without any.

    Raises:
        OSError: S3 did not answer.
    """
    wanted = {seq for seq in seqs if seq > 0}
    if not wanted:
        return None
    # A snapshot without transactions is of sequence 0, and its rows have 1: see `snapshot_rows`.
    names = {f"{_name(seq)}.parquet" for seq in wanted | ({0} if 1 in wanted else set())}
    files = lake.files(f"{STATE_LOG}/{log_folder(view)}")
    found = [file for file in files if file.rpartition("/")[2] in names]
    return ds.dataset(found, filesystem=lake.filesystem).to_table() if found else None
