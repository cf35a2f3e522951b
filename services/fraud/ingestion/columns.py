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
