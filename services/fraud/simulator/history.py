"""The simulated data set that precedes the stream: days of transactions and labels."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE, TRUTH_TABLE
from services.fraud.simulator.day import DAY_US, START_US, Day
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.storage.lake import Lake


@dataclass(frozen=True)
class SimulatedDataset:
    """Days of transactions, and the labels known by their end.

    Attributes:
        days: The days.
        seqs: For each day, the sequences of its transactions and of its labels; 0 for a label
            that is not known by the end of the last day.
        last_seq: The sequence of the last event.
    """

    days: list[Day]
    seqs: list[tuple[np.ndarray, np.ndarray]]
    last_seq: int


def simulate_days(traffic: Traffic, days: int, step: ProgressCallback) -> SimulatedDataset:
    """Simulate `days` days and number their events in order of time."""
    simulated = []
    for number in range(days):
        simulated.append(traffic.day(number))
        step(number + 1, days)
    end = START_US + days * DAY_US
    times = np.concatenate([d.time for d in simulated] + [d.label_time for d in simulated])
    order = np.argsort(times, kind="stable")
    seqs = np.empty(len(times), dtype=np.int64)
    seqs[order] = np.arange(1, len(times) + 1)
    seqs[times >= end] = 0
    bounds = np.cumsum([len(d) for d in simulated])[:-1]
    total = len(times) // 2
    pairs = zip(np.split(seqs[:total], bounds), np.split(seqs[total:], bounds), strict=True)
    return SimulatedDataset(simulated, list(pairs), int(np.count_nonzero(times < end)))


def write_lake(
    lake: Lake, dataset: SimulatedDataset, step: ProgressCallback
) -> tuple[pa.Table, pa.Table]:
    """Write a data set to the lake, one file a day. Returns its transactions and labels."""
    transactions, labels = [], []
    for number, (day, (seq, label_seq)) in enumerate(
        zip(dataset.days, dataset.seqs, strict=True), start=1
    ):
        known = np.nonzero(label_seq)[0]
        transactions.append(transaction_table(day, seq))
        labels.append(label_table(day, known, label_seq[known]))
        name = f"history-{day.number:05d}"
        lake.write(TRANSACTIONS_TABLE, transactions[-1], name)
        lake.write(LABELS_TABLE, labels[-1], name, partition=False)
        lake.write(TRUTH_TABLE, _truth(day, transactions[-1]), name, partition=False)
        step(number, len(dataset.days))
    return pa.concat_tables(transactions), pa.concat_tables(labels)


def _truth(day: Day, transactions: pa.Table) -> pa.Table:
    """The scenario of each transaction, which only evaluation reads: for recall by scenario."""
    return transactions.select(["seq", "transaction_id"]).append_column(
        "scenario", pa.array(day.scenario)
    )
