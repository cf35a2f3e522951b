"""Simulated data sets in memory, as feature vectors: a minute for a year, without engines.

The simulated days go through the same kernel as the workers and the backfill, so the vectors equal
those a scorer would have logged. Used by the drift benchmark and the retraining drill, which need
many days with known truth.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from features.aggregation import backfill
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import STATES, TABULAR
from services.fraud.ingestion.columns import Events, event_times
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.drift import Schedule
from services.fraud.simulator.history import SimulatedDataset, simulate_days
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats

# Rows per chunk: all columns of a year's vectors would take several times the memory of the result.
_CHUNK = 100_000


def midnight(day: int) -> int:
    """Start of a day, microseconds since the epoch."""
    return START_US + day * DAY_US


class SimulatedData:
    """N simulated transactions of some days.

    Attributes:
        vectors: (N, len(TABULAR)) features as of just before each transaction.
        time: (N,) event time, seconds.
        day: (N,) number of the day.
        fraud: (N,) outcome.
        amount: (N,) minor units.
        customer: (N,) number of the customer.
    """

    def __init__(
        self,
        seed: int,
        days: int,
        schedule: Schedule = (),
        step: ProgressCallback = lambda *_: None,
    ) -> None:
        history = simulate_days(Traffic(seed, schedule), days, step)
        transactions, labels = tables(history)
        self.vectors = tabular_vectors(transactions, labels)
        self.time = event_times(transactions)
        self.day = ((self.time * 1e6 - START_US) // DAY_US).astype(np.int64)
        self.fraud: Booleans = np.concatenate([day.scenario > 0 for day in history.days])
        self.amount = np.concatenate([d.amount for d in history.days]).astype(np.float64)
        self.customer = pd.factorize(transactions["customer_id"].to_numpy(zero_copy_only=False))[0]

    def between_days(self, first: int, last: int) -> Booleans:
        """(N,) whether a transaction is on day `first` or later, and before day `last`."""
        return (self.day >= first) & (self.day < last)

    def examples(self, first: int, last: int) -> Examples:
        """The transactions of days `first` up to, not including, `last`."""
        chosen = self.between_days(first, last)
        return Examples(self.vectors[chosen], self.fraud[chosen], self.amount[chosen])


def tables(history: SimulatedDataset) -> tuple[pa.Table, pa.Table]:
    """The transactions and the known labels of simulated days."""
    pairs = list(zip(history.days, history.seqs, strict=True))
    transactions = pa.concat_tables([transaction_table(d, seq) for d, (seq, _) in pairs])
    labels = pa.concat_tables(
        [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
    )
    return transactions, labels


def tabular_vectors(transactions: pa.Table, labels: pa.Table) -> Floats:
    """(N, len(TABULAR)) features of N transactions, each as of just before it.

    Args:
        transactions: N rows in order of `seq`.
        labels: Their labels, those that are known.
    """
    return tabular(rows_before(transactions, labels), request_columns(transactions))


def rows_before(transactions: pa.Table, labels: pa.Table) -> dict[str, Floats]:
    """By state name, the rows (N, width) of N transactions, each as of just before it."""
    events = Events.from_tables(transactions, labels)
    snapshot_index = np.where(events.is_transaction, np.cumsum(events.is_transaction) - 1, -1)
    states = backfill(STATES, events, snapshot_index)
    return {name: folded.snapshots for name, folded in states.items()}


def tabular(rows: Mapping[str, Floats], request: Floats) -> Floats:
    """(N, len(TABULAR)) features from each state's rows (N, width) and the request (N, R)."""
    out = np.empty((len(request), len(TABULAR)))
    for begin in range(0, len(request), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        made = feature_vectors({name: of[part] for name, of in rows.items()}, request[part])
        out[part] = made[:, : len(TABULAR)]
    return out
