"""A simulated stream in memory, day by day, whose transactions are decided as it goes on."""

from collections.abc import Mapping, Sequence

import numpy as np

from services.fraud.evaluation.attempts.variants import APPROVED
from services.fraud.evaluation.simulated_data import midnight, tables
from services.fraud.features.request import request_columns
from services.fraud.ingestion.columns import Events
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Integers


class DecidedEvents:
    """N events with what was decided: what the variants' states fold.

    Attributes:
        seq: (N,) as of the events, and so are the other columns.
        values: By name, the (N,) columns that measures read, `APPROVED` among them.
    """

    def __init__(self, events: Events, approved: Booleans) -> None:
        """Add a column to N events.

        Args:
            events: The events.
            approved: (N,) whether the transaction that each is, or is the label of, was approved.
        """
        self.seq, self.time, self.keys = events.seq, events.time, events.keys
        self.is_transaction = events.is_transaction
        went_through = (events.is_transaction & approved).astype(np.float64)
        self.values: Mapping[str, Floats] = {**events.values, APPROVED: went_through}

    def __len__(self) -> int:
        return len(self.seq)


class SimulatedStream:
    """N transactions of some days with their labels, E events.

    Attributes:
        request: (N, R) features of the requests.
        scenario: (N,) the truth, index into `SCENARIOS`.
        fraud: (N,) whether it is none of the genuine ones.
        amount: (N,) minor units.
        day: (N,) number of the day.
    """

    def __init__(self, seed: int, days: int, step: ProgressCallback) -> None:
        history = simulate_days(Traffic(seed), days, step)
        transactions, labels = tables(history)
        self.request = request_columns(transactions)
        self.day = np.repeat(np.arange(days), [len(day) for day in history.days])
        self.scenario = np.concatenate([day.scenario for day in history.days])
        self.fraud: Booleans = self.scenario > 0
        self.amount = np.concatenate([day.amount for day in history.days]).astype(np.float64)
        self._events = Events.from_tables(transactions, labels)
        labelled = np.nonzero(np.concatenate([of_labels for _, of_labels in history.seqs]))[0]
        self._transaction = transactions_of(
            self._events.is_transaction, labelled, labels["seq"].to_numpy()
        )
        midnights = np.array([midnight(day) for day in range(days + 1)]) / 1e6
        self._begins = np.searchsorted(self._events.time, midnights)

    def of_day(self, day: int) -> tuple[Events, Integers]:
        """A day's events, and for each its transaction, which a label may have from before."""
        part = slice(self._begins[day], self._begins[day + 1])
        every = self._events
        events = Events(
            every.seq[part],
            every.time[part],
            every.is_transaction[part],
            every.amount[part],
            every.chargeback[part],
            {entity: of[part] for entity, of in every.keys.items()},
        )
        return events, self._transaction[part]


def transactions_of(
    is_transaction: Booleans, labelled: Integers, label_seqs: Sequence[int] | Integers
) -> Integers:
    """(E,) the number of the transaction that each event is, or that it is the label of.

    Args:
        is_transaction: (E,) for events in stream order.
        labelled: (L,) numbers of the transactions that have a label.
        label_seqs: (L,) sequences of these labels.

    >>> transactions_of(np.array([True, True, False, False]), np.array([0, 1]), [9, 8]).tolist()
    [0, 1, 1, 0]
    """
    found = np.cumsum(is_transaction) - 1
    found[~is_transaction] = labelled[np.argsort(label_seqs)]
    return found
