"""Events as columns, from messages or from the lake: the input of the accumulators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import KeyColumns
from services.fraud.ingestion.events import ENTITIES, Event, TransactionEvent, microseconds
from services.fraud.ingestion.tables import (
    LABEL_SCHEMA,
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.platform.storage.lake import Lake, partition_date
from services.platform.storage.sequences import SequenceReader

# What measures read: 1 for a transaction; 1 for a label; the amount in major units, 0 for a label;
# 1 for a label with fraud.
EVENT_COLUMNS = ("transaction", "label", "amount", "chargeback")


def seconds(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Convert (N,) microseconds to float64 seconds, with one rounding that all features share.

    >>> seconds(np.array([1_500_000])).tolist()
    [1.5]
    """
    return np.asarray(time_us, dtype=np.int64) / 1e6


@dataclass(frozen=True)
class Events:
    """N events as columns, in stream order.

    Attributes:
        seq: (N,) stream sequence.
        time: (N,) event time, UTC seconds.
        is_transaction: (N,) true for a transaction, false for a label.
        amount: (N,) major units, 0 for a label.
        chargeback: (N,) true for a label with fraud.
        keys: By entity, its (N,) keys, None where absent.
    """

    seq: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    is_transaction: npt.NDArray[np.bool_]
    amount: npt.NDArray[np.float64]
    chargeback: npt.NDArray[np.bool_]
    keys: KeyColumns

    @cached_property
    def values(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """By name, the (N,) columns of `EVENT_COLUMNS`."""
        transaction = self.is_transaction.astype(np.float64)
        columns = transaction, 1.0 - transaction, self.amount, self.chargeback.astype(np.float64)
        return dict(zip(EVENT_COLUMNS, columns, strict=True))

    def __len__(self) -> int:
        return len(self.seq)

    @classmethod
    def of(cls, events: Sequence[Event], seqs: Sequence[int]) -> "Events":
        """Columns of N events and their N sequences."""
        amounts = [getattr(e, "amount_minor", 0) for e in events]
        return cls(
            seq=np.array(seqs, dtype=np.int64),
            time=seconds(np.array([microseconds(e.event_time) for e in events], dtype=np.int64)),
            is_transaction=np.array([isinstance(e, TransactionEvent) for e in events], dtype=bool),
            amount=np.array(amounts, dtype=np.int64) / 100.0,
            chargeback=np.array([getattr(e, "fraud", False) for e in events], dtype=bool),
            keys={entity: [getattr(e, entity) for e in events] for entity in ENTITIES},
        )

    @classmethod
    def from_tables(cls, transactions: pa.Table, labels: pa.Table | None) -> "Events":
        """Columns of the lake's transactions and labels, in the order of their sequence."""
        wanted = ["seq", "event_time", *ENTITIES, "amount_minor", "fraud"]
        parts = [transactions.append_column("fraud", pa.nulls(len(transactions), pa.bool_()))]
        if labels is not None:
            amounts = pa.nulls(len(labels), pa.int64())
            parts.append(labels.append_column("amount_minor", amounts))
        rows = pa.concat_tables(
            [part.select(wanted) for part in parts], promote_options="permissive"
        ).sort_by("seq")
        fraud = rows["fraud"]
        amount = pc.fill_null(rows["amount_minor"], 0).to_numpy()
        return cls(
            seq=rows["seq"].to_numpy(),
            time=seconds(rows["event_time"].cast(pa.int64()).to_numpy()),
            is_transaction=fraud.is_null().to_numpy(),
            amount=amount / 100.0,
            chargeback=pc.fill_null(fraud, False).to_numpy(),
            keys={entity: rows[entity].to_numpy() for entity in ENTITIES},
        )


def event_times(rows: pa.Table) -> npt.NDArray[np.float64]:
    """(N,) event times of the lake's rows, UTC seconds."""
    return seconds(rows["event_time"].cast(pa.int64()).to_numpy())


class EventReader:
    """The lake's events in stream order, a range of sequences at a time.

    Attributes:
        last_seq: The sequence of the last transaction or label, 0 without any.
    """

    def __init__(self, lake: Lake) -> None:
        """List the files. OSError: S3 did not answer."""
        columns = ["event_time", *ENTITIES]
        self._lake = lake
        self._transactions = SequenceReader(
            lake, TRANSACTIONS_TABLE, [*columns, "amount_minor", "feed"], TRANSACTION_SCHEMA
        )
        self._labels = SequenceReader(lake, LABELS_TABLE, [*columns, "fraud"], LABEL_SCHEMA)
        self.last_seq = self._last_row()

    def between(self, begin: int, end: int) -> tuple[pa.Table, pa.Table]:
        """Transactions, with their `feed`, and labels of sequences begin + 1 to end.

        Raises:
            OSError: S3 did not answer.
        """
        transactions = self._transactions.between(begin, end)
        labels = self._labels.between(begin, end)
        return (
            TRANSACTION_SCHEMA.empty_table() if transactions is None else transactions,
            LABEL_SCHEMA.empty_table() if labels is None else labels,
        )

    def refresh(self) -> None:
        """List the files again: some may have been written since."""
        self._transactions.refresh()
        self._labels.refresh()
        self.last_seq = self._last_row()

    def begin(self, last_seq: int) -> float | None:
        """The oldest event time of the transactions up to a sequence, seconds; None without any."""
        until = pc.field("seq") <= last_seq
        for day in sorted({partition_date(f) for f in self._lake.files(TRANSACTIONS_TABLE)}):
            files = [f for f in self._lake.files(TRANSACTIONS_TABLE) if partition_date(f) == day]
            rows = self._lake.read_files(files, ["event_time"], until, schema=TRANSACTION_SCHEMA)
            if rows is not None and len(rows):
                return float(event_times(rows).min())
        return None

    def _last_row(self) -> int:
        return max(self._transactions.last_row(), self._labels.last_row())
