"""Labelled transactions with their feature vectors, for the gate and for retraining.

The vector is the one logged with the decision. Backfilled transactions have no decision: their
vector is read as of their point in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from services.fraud.features.decisions import of_current_set, read_decisions
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import WEIGHT
from services.fraud.ingestion.outcomes import labelled_transactions
from services.fraud.ingestion.tables import NOT_DEGRADED, TRANSACTIONS_TABLE
from services.fraud.retraining.dataset import point_in_time, point_in_time_embeddings
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats


@dataclass(frozen=True)
class LabelledDecisions:
    """Labelled transactions with their feature vectors.

    Attributes:
        rows: N transactions with their outcome as `fraud`, and what it stands for as `weight`.
        vectors: (N, len(FEATURES)) features.
        until: (N,) event time before which each row's feed is settled, seconds.
        fraud_share: The usual share of frauds; NaN if it is not known.
        costs: Costs that the decisions were made by, oldest first, as they were logged.
    """

    rows: pa.Table
    vectors: Floats
    until: Floats
    fraud_share: float = float("nan")
    costs: Sequence[Mapping[str, float | None] | None] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positive(self) -> Booleans:
        """(N,) whether each is fraud."""
        return np.asarray(self.rows["fraud"].to_numpy(), dtype=bool)

    @property
    def weight(self) -> Floats:
        """(N,) how many transactions each stands for, see `label_weights`."""
        return np.asarray(self.rows[WEIGHT].to_numpy(), dtype=np.float64)

    @property
    def day(self) -> str:
        """The newest day, as YYYY-MM-DD."""
        return f"{datetime.fromtimestamp(event_times(self.rows).max(), UTC):%Y-%m-%d}"

    def select(self, mask: Booleans) -> "LabelledDecisions":
        """The transactions where `mask` (N,) is true."""
        rows = self.rows.filter(pa.array(mask))
        until = self.until[mask]
        return LabelledDecisions(rows, self.vectors[mask], until, self.fraud_share, self.costs)


def labelled_decisions(
    settings: Settings, lake: Lake, since: float, graph: bool
) -> LabelledDecisions:
    """Labelled transactions after `since` with their vectors.

    Args:
        settings: Where the offline store is.
        lake: Where transactions, labels and decisions are stored.
        since: Event time, seconds.
        graph: Whether to read the parties' embeddings too.
    """
    settled = labelled_transactions(lake, since)
    if settled is None or not len(settled):
        no_rows = pa.table({"fraud": pa.array([], pa.bool_())})
        return LabelledDecisions(no_rows, np.zeros((0, len(FEATURES))), np.zeros(0))
    rows = settled.rows
    logged, costs = _logged(lake, rows)
    is_backfilled = rows["seq"].to_numpy() < _first_live_sequence(lake)
    vectors = np.full((len(rows), len(FEATURES)), np.nan)
    vectors[~is_backfilled] = logged[~is_backfilled]
    if is_backfilled.any():
        backfilled = rows.filter(pa.array(is_backfilled)).drop_columns(["fraud", WEIGHT])
        vectors[is_backfilled, : len(TABULAR)] = point_in_time(settings, backfilled, graph=False)
    has_vector = ~np.isnan(vectors[:, FEATURES.index("hour_of_day")])
    if graph:
        vectors[:, len(TABULAR) :] = point_in_time_embeddings(settings, rows)
    found = LabelledDecisions(rows, vectors, settled.until, settled.fraud_share, costs)
    return found.select(has_vector)


def _first_live_sequence(lake: Lake) -> int:
    """The lowest sequence among the files of live transactions; lower ones were backfilled."""
    files = lake.files(TRANSACTIONS_TABLE)
    live = [f for f in files if "/history-" not in f]
    # The lake writer names a file by its first and last sequence.
    return min((int(f.rpartition("/")[2].split("-")[1]) for f in live), default=2**62)


def _logged(
    lake: Lake, rows: pa.Table
) -> tuple[Floats, Sequence[Mapping[str, float | None] | None]]:
    """The decisions' vectors (N, len(FEATURES)), NaN without a decision or if it was degraded.

    And the costs of the decisions, oldest first.
    """
    out = np.full((len(rows), len(FEATURES)), np.nan)
    since = float(event_times(rows).min())
    logged = read_decisions(lake, ["transaction_id", "features", "costs"], NOT_DEGRADED, since)
    if logged is None:
        return out, ()
    decisions = of_current_set(logged)
    index = pc.index_in(rows["transaction_id"], decisions["transaction_id"])
    decided = np.nonzero(pc.is_valid(index).to_numpy())[0]
    if len(decided):
        features = decisions["features"].take(index.filter(pc.is_valid(index))).combine_chunks()
        flat = pc.list_flatten(features).to_numpy(zero_copy_only=False)
        out[decided] = flat.reshape(len(decided), -1)
    return out, decisions["costs"].to_pylist()
