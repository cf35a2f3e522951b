"""Outcomes: transactions and decisions joined with their labels.

A transaction counts once its dispute window has closed by the watermark of its feed, whether it is
genuine or fraud. Before that only frauds are labelled, and evaluating on them would favour models
that decline more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from features.spec import DAY
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import WEIGHT, label_weights
from services.fraud.ingestion.tables import LABEL_SCHEMA, LABELS_TABLE
from services.fraud.ingestion.watermark import FeedClock
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.platform.storage.joins import first_matches
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Floats, Integers

_RANGE = 200_000


@dataclass(frozen=True)
class SettledRows:
    """N rows whose dispute window has closed, with their outcome.

    Attributes:
        rows: The rows, with the outcome as `fraud`, and as `weight` how many it stands for.
        begin: (N,) event time at which each row's feed begins, seconds.
        until: (N,) event time before which each row's feed is settled, seconds.
        clocks: By feed, its clock.
        fraud_share: Of all labels that were given, share of frauds; NaN without labels.
        counted: (N,) how many rows each stands for where a sample of them was read, otherwise 1.
            It is a factor of `weight`.
    """

    rows: pa.Table
    begin: Floats
    until: Floats
    clocks: Mapping[str, FeedClock]
    fraud_share: float
    counted: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def time(self) -> Floats:
        """(N,) event times, seconds."""
        return event_times(self.rows)

    def select(self, mask: Booleans) -> "SettledRows":
        """The rows where `mask` (N,) is true."""
        return replace(
            self,
            rows=self.rows.filter(pa.array(mask)),
            begin=self.begin[mask],
            until=self.until[mask],
            counted=self.counted[mask],
        )


def settled_until(clock: FeedClock) -> float:
    """Event time before which a feed's dispute windows have closed, seconds."""
    return clock.watermark - DISPUTE_WINDOW_DAYS * DAY


def with_outcomes(lake: Lake, rows: pa.Table, counted: Floats) -> tuple[pa.Table, Booleans, float]:
    """Of N rows whose dispute window has closed, those with a label.

    Args:
        rows: N transactions or decisions, with `DECIDED_BY`, see `label_weights`.
        counted: (N,) how many each stands for in a sample of them.

    Returns:
        The rows with the columns `fraud` and `weight`; (N,) whether each of N is among them; and of
        all labels, the share of frauds, NaN without any.

    Raises:
        OSError: S3 did not answer.
    """
    outcome, share = read_outcomes(lake, rows["transaction_id"])
    known = outcome >= 0
    weight = label_weights(rows, known, counted) * counted
    labelled = rows.append_column("fraud", pa.array(outcome == 1))
    labelled = labelled.append_column(WEIGHT, pa.array(weight))
    return labelled.filter(pa.array(known)), known, share


def read_outcomes(lake: Lake, ids: pa.ChunkedArray) -> tuple[Integers, float]:
    """The outcomes of N transactions, from the lake's labels read a range at a time.

    Args:
        ids: N transaction ids.

    Returns:
        (N,) 1 for fraud, 0 for none, -1 without a label, of several the first; and of all labels,
        the share of frauds, NaN without any.

    Raises:
        OSError: S3 did not answer.
    """
    given = frauds = 0

    def labels() -> Iterator[pa.Table]:
        nonlocal given, frauds
        columns = ["transaction_id", "fraud"]
        for part in SequenceReader(lake, LABELS_TABLE, columns, LABEL_SCHEMA).parts(_RANGE):
            given += len(part)
            frauds += int(part["fraud"].to_numpy().sum())
            yield part

    outcome: Integers = np.full(len(ids), -1)
    for at, found in first_matches(ids, labels(), "transaction_id"):
        outcome[at] = found["fraud"].to_numpy()
    return outcome, frauds / given if given else float("nan")
