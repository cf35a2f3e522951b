"""Labelled transactions with their feature vectors, for the gate and for retraining.

The vector is the one logged with the decision. Backfilled transactions have no decision: their
vector is read as of their point in time. Decisions are read a range of their stream at a time; in
memory are the labelled transactions, at most about `sample.MAX_ROWS`, and their vectors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from services.fraud.features.decisions import of_current_set, vectors_of
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import WEIGHT
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    NOT_DEGRADED,
    TRANSACTIONS_TABLE,
)
from services.fraud.problem import CostModel
from services.fraud.retraining.labelled import after, labelled_transactions
from services.fraud.retraining.point_in_time import point_in_time, point_in_time_embeddings
from services.fraud.review.policy import UsualCosts
from services.platform.settings import Settings
from services.platform.storage.joins import first_matches
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Floats

_RANGE = 25_000


@dataclass(frozen=True)
class LabelledDecisions:
    """Labelled transactions with their feature vectors.

    Attributes:
        rows: N transactions with their outcome as `fraud`, and what it stands for as `weight`.
        vectors: (N, len(FEATURES)) features.
        until: (N,) event time before which each row's feed is settled, seconds.
        counted: (N,) how many transactions each stands for in a sample of them; a factor of
            `weight`.
        fraud_share: The usual share of frauds; NaN if it is not known.
        costs: The usual costs of the decisions.
        limits: What was left out, see `LabelledTransactions`.
    """

    rows: pa.Table
    vectors: Floats
    until: Floats
    counted: Floats
    fraud_share: float = float("nan")
    costs: CostModel = field(default_factory=CostModel)
    limits: Mapping[str, float] = field(default_factory=dict)

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
        if mask.all():
            return self
        return replace(
            self,
            rows=self.rows.filter(pa.array(mask)),
            vectors=self.vectors[mask],
            until=self.until[mask],
            counted=self.counted[mask],
        )


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
    read = labelled_transactions(lake, after(since))
    if read is None or not len(read.settled):
        no_rows = pa.table({"fraud": pa.array([], pa.bool_())})
        return LabelledDecisions(no_rows, np.zeros((0, len(FEATURES))), np.zeros(0), np.zeros(0))
    settled, rows = read.settled, read.settled.rows
    is_backfilled = rows["seq"].to_numpy() < _first_live_sequence(lake)
    vectors, costs = _logged(lake, rows, ~is_backfilled)
    if is_backfilled.any():
        backfilled = rows.filter(pa.array(is_backfilled)).drop_columns(["fraud", WEIGHT])
        vectors[is_backfilled, : len(TABULAR)] = point_in_time(settings, backfilled, graph=False)
    has_vector = ~np.isnan(vectors[:, FEATURES.index("hour_of_day")])
    if graph:
        point_in_time_embeddings(settings, rows, vectors[:, len(TABULAR) :])
    found = LabelledDecisions(
        rows, vectors, settled.until, settled.counted, settled.fraud_share, costs, read.limits
    )
    return found.select(has_vector)


def _first_live_sequence(lake: Lake) -> int:
    """The lowest sequence among the files of live transactions; lower ones were backfilled."""
    files = lake.files(TRANSACTIONS_TABLE)
    live = [f for f in files if "/history-" not in f]
    # The lake writer names a file by its first and last sequence.
    return min((int(f.rpartition("/")[2].split("-")[1]) for f in live), default=2**62)


def _logged(lake: Lake, rows: pa.Table, wanted: Booleans) -> tuple[Floats, CostModel]:
    """The decisions' vectors (N, len(FEATURES)), NaN without a decision or if it was degraded.

    And the usual costs of all decisions since the first of the rows.

    Args:
        wanted: (N,) which rows' vectors are read, the others are NaN.
    """
    out = np.full((len(rows), len(FEATURES)), np.nan)
    costs = UsualCosts()

    def decisions() -> Iterator[pa.Table]:
        since = float(event_times(rows).min())
        columns = ["transaction_id", "features", "costs", "feature_set"]
        reader = SequenceReader(
            lake, DECISIONS_TABLE, columns, DECISION_SCHEMA, NOT_DEGRADED, since
        )
        for part in reader.parts(_RANGE):
            current = of_current_set(part)
            costs.add(current["costs"])
            yield current

    at = np.flatnonzero(wanted)
    ids = rows["transaction_id"].filter(pa.array(wanted))
    for found, decided in first_matches(ids, decisions(), "transaction_id"):
        if len(found):
            out[at[found]] = vectors_of(decided)
    return out, costs.model()
