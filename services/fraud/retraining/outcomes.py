"""Labelled transactions as a model is asked about them: what gate and retraining work with.

A transaction counts once its dispute window has closed: before that only its fraud could be known,
and to judge by frauds alone would flatter whoever declines most. Its vector is the one a decision
logged. One from before the stream, which nobody was asked about, is read as of its point in time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from features.spec import Booleans, Floats
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.ingestion.tables import DECISIONS_TABLE, TRANSACTIONS_TABLE, WHOLE
from services.fraud.retraining.training import labelled_rows, placed, point_in_time, times
from services.platform.settings import Settings
from services.platform.storage.lake import Lake


@dataclass(frozen=True)
class Labelled:
    """N transactions with their outcome as column `fraud`, and their vectors (N, F)."""

    rows: pa.Table
    vectors: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def day(self) -> str:
        """The newest day among them."""
        return f"{datetime.fromtimestamp(times(self.rows).max(), UTC):%Y-%m-%d}"

    def where(self, chosen: Booleans) -> "Labelled":
        """Some of them."""
        return Labelled(self.rows.filter(pa.array(chosen)), self.vectors[chosen])


def labelled(settings: Settings, lake: Lake, since: float, graph: bool) -> Labelled | None:
    """Labelled transactions after `since` with their vectors; None while there are none.

    Args:
        graph: Whether the parties' places are wanted too.
    """
    rows = labelled_rows(lake, since)
    if rows is None or not len(rows):
        return None
    logged = _logged(lake, rows)
    before = rows["seq"].to_numpy() < _stream_began(lake)
    vectors = np.full((len(rows), len(FEATURES)), np.nan)
    vectors[~before] = logged[~before]
    if before.any():
        history = rows.filter(pa.array(before)).drop_columns(["fraud"])
        vectors[before, : len(TABULAR)] = point_in_time(settings, history, graph=False)
    # Every vector that was read knows the hour of its day.
    read = ~np.isnan(vectors[:, 1])
    if graph:
        vectors[:, len(TABULAR) :] = placed(settings, rows)
    return Labelled(rows, vectors).where(read)


def _stream_began(lake: Lake) -> int:
    """Sequence of the first decided transaction's time: what is older is history."""
    files = lake.files(TRANSACTIONS_TABLE)
    live = [f for f in files if "/history-" not in f]
    # The lake writer names a file by the sequences in it.
    return min((int(f.rpartition("/")[2].split("-")[1]) for f in live), default=2**62)


def _logged(lake: Lake, rows: pa.Table) -> Floats:
    """The vectors that decisions logged, NaN where there is none or it was degraded."""
    out = np.full((len(rows), len(FEATURES)), np.nan)
    since = float(times(rows).min())
    whole = lake.read(DECISIONS_TABLE, ["transaction_id", "features"], WHOLE, since)
    if whole is None:
        return out
    where = pc.index_in(rows["transaction_id"], whole["transaction_id"])
    found = np.nonzero(pc.is_valid(where).to_numpy())[0]
    if len(found):
        features = whole["features"].take(where.filter(pc.is_valid(where))).combine_chunks()
        flat = pc.list_flatten(features).to_numpy(zero_copy_only=False)
        out[found] = flat.reshape(len(found), -1)
    return out
