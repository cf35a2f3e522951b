"""Labelled transactions with their feature vectors, for the gate and for retraining.

A transaction counts once its dispute window has closed. Before that only frauds are labelled, and
evaluating on them would favour models that decline more. The vector is the one logged with the
decision. Backfilled transactions have no decision: their vector is read as of their point in time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import DECISIONS_TABLE, NOT_DEGRADED, TRANSACTIONS_TABLE
from services.fraud.retraining.dataset import labelled_rows, point_in_time, point_in_time_embeddings
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats


@dataclass(frozen=True)
class LabelledDecisions:
    """Labelled transactions with their feature vectors.

    Attributes:
        rows: N transactions with their outcome as `fraud`.
        vectors: (N, len(FEATURES)) features.
    """

    rows: pa.Table
    vectors: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def day(self) -> str:
        """The newest day, as YYYY-MM-DD."""
        return f"{datetime.fromtimestamp(event_times(self.rows).max(), UTC):%Y-%m-%d}"

    def select(self, mask: Booleans) -> "LabelledDecisions":
        """The transactions where `mask` (N,) is true."""
        return LabelledDecisions(self.rows.filter(pa.array(mask)), self.vectors[mask])


def labelled_decisions(
    settings: Settings, lake: Lake, since: float, graph: bool
) -> LabelledDecisions | None:
    """Labelled transactions after `since` with their vectors; None while there are none.

    Args:
        settings: Where the offline store is.
        lake: Where transactions, labels and decisions are stored.
        since: Event time, seconds.
        graph: Whether to read the parties' embeddings too.
    """
    rows = labelled_rows(lake, since)
    if rows is None or not len(rows):
        return None
    logged = _logged_vectors(lake, rows)
    is_backfilled = rows["seq"].to_numpy() < _first_live_sequence(lake)
    vectors = np.full((len(rows), len(FEATURES)), np.nan)
    vectors[~is_backfilled] = logged[~is_backfilled]
    if is_backfilled.any():
        backfilled = rows.filter(pa.array(is_backfilled)).drop_columns(["fraud"])
        vectors[is_backfilled, : len(TABULAR)] = point_in_time(settings, backfilled, graph=False)
    has_vector = ~np.isnan(vectors[:, FEATURES.index("hour_of_day")])
    if graph:
        vectors[:, len(TABULAR) :] = point_in_time_embeddings(settings, rows)
    return LabelledDecisions(rows, vectors).select(has_vector)


def _first_live_sequence(lake: Lake) -> int:
    """The lowest sequence among the files of live transactions; lower ones were backfilled."""
    files = lake.files(TRANSACTIONS_TABLE)
    live = [f for f in files if "/history-" not in f]
    # The lake writer names a file by its first and last sequence.
    return min((int(f.rpartition("/")[2].split("-")[1]) for f in live), default=2**62)


def _logged_vectors(lake: Lake, rows: pa.Table) -> Floats:
    """The decisions' vectors (N, len(FEATURES)), NaN without a decision or if it was degraded."""
    out = np.full((len(rows), len(FEATURES)), np.nan)
    since = float(event_times(rows).min())
    decisions = lake.read(DECISIONS_TABLE, ["transaction_id", "features"], NOT_DEGRADED, since)
    if decisions is None:
        return out
    index = pc.index_in(rows["transaction_id"], decisions["transaction_id"])
    decided = np.nonzero(pc.is_valid(index).to_numpy())[0]
    if len(decided):
        features = decisions["features"].take(index.filter(pc.is_valid(index))).combine_chunks()
        flat = pc.list_flatten(features).to_numpy(zero_copy_only=False)
        out[decided] = flat.reshape(len(decided), -1)
    return out
