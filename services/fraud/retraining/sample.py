"""A sample of transactions, where there are more than training can hold.

Every fraud is kept, and a uniform share of the other transactions, chosen by their id: the same
ones each time. A row counts one over the probability that it was kept, so that sums over the sample
have the expectation of the sums over all transactions. Only where frauds alone are more than half
of `MAX_ROWS`, a share of them is kept, too.

Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
Universe", 1952.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.tables import LABEL_SCHEMA, LABELS_TABLE
from services.platform.evaluation.sampling import draw
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Floats

# 60 simulated days have 396,707 transactions to train on.
MAX_ROWS = 500_000
_PURPOSE = "training"
_RANGE = 500_000
_NO_IDS = pa.array([], pa.string())


@dataclass(frozen=True)
class Sample:
    """Which transactions are read.

    Attributes:
        total: Transactions that there are.
        fraud_share: Share of the frauds among them that is kept.
        other_share: Share of the others that is kept.
        frauds: Ids of the frauds that are kept, if not all transactions are.
    """

    total: int
    fraud_share: float = 1.0
    other_share: float = 1.0
    frauds: pa.Array = field(default_factory=lambda: _NO_IDS)

    @classmethod
    def of(cls, lake: Lake, total: int, since: float, most: int) -> "Sample":
        """A sample of about `most` of the transactions since an event time, seconds.

        Raises:
            OSError: S3 did not answer.
        """
        if total <= most:
            return cls(total)
        fraud_share, frauds = _frauds(lake, since, most // 2)
        others = max(total - len(frauds) / fraud_share, 1.0)
        # A fraud that is not kept must not be kept as another transaction.
        other_share = min(fraud_share, (most - len(frauds)) / others)
        return cls(total, fraud_share, other_share, frauds)

    @property
    def is_partial(self) -> bool:
        """Whether transactions are left out."""
        return self.other_share < 1.0

    def keep(self, rows: pa.Table) -> tuple[Booleans, Floats]:
        """(N,) whether each of N rows is kept, by its `transaction_id`, and (N,) what it counts."""
        if not self.is_partial:
            return np.ones(len(rows), dtype=bool), np.ones(len(rows))
        ids = rows["transaction_id"]
        is_fraud = pc.is_in(ids, self.frauds).to_numpy()
        is_drawn = draws(ids) < self.other_share
        return is_fraud | is_drawn, np.where(
            is_fraud, 1.0 / self.fraud_share, 1.0 / self.other_share
        )

    def __str__(self) -> str:
        frauds = (
            "all frauds" if self.fraud_share == 1.0 else f"{self.fraud_share:.2%} of the frauds"
        )
        return (
            f"of {self.total:,} transactions, {frauds} and {self.other_share:.2%} of the others "
            f"are read, weighted by what they stand for; {MAX_ROWS:,} at most"
        )


def draws(ids: pa.ChunkedArray) -> Floats:
    """(N,) a number in [0, 1) of each id, always the same."""
    return np.array([draw(one, _PURPOSE) for one in ids.to_pylist()])


def _frauds(lake: Lake, since: float, most: int) -> tuple[float, pa.Array]:
    """The share of transactions with a fraud label that is kept, and the ids: at most `most`."""
    columns = ["transaction_id"]
    reader = SequenceReader(lake, LABELS_TABLE, columns, LABEL_SCHEMA, pc.field("fraud"), since)
    share, found = 1.0, _NO_IDS
    for part in reader.parts(_RANGE):
        ids = pc.unique(pa.concat_arrays([found, *part["transaction_id"].chunks]))
        while len(ids) > most:
            share /= 2.0
            ids = _drawn(ids, share)
        found = ids if share == 1.0 else _drawn(ids, share)
    return share, found


def _drawn(ids: pa.Array, share: float) -> pa.Array:
    return ids.filter(pa.array(draws(ids) < share))
