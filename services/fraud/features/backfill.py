"""History before the stream begins: simulated days into the lake, states into the store.

History's events take sequences 1..N and the stream begins at N + 1, so history and stream are one
sequence, and any state can be rebuilt from the lake alone.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.aggregation import Backfilled, backfill
from features.online import OnlineTable
from features.state_log import write_log
from services.fraud.features.states import STATES, contributions
from services.fraud.ingestion.events import Events
from services.fraud.ingestion.tables import LABELS_TABLE, STATE_LOG, TRANSACTIONS_TABLE, TRUTH_TABLE
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import DAY_US, START_US, Day, Traffic
from services.platform.progress import Step
from services.platform.storage.lake import Lake

_CHUNK = 20_000


@dataclass(frozen=True)
class History:
    """What a history holds: D days of transactions and the labels known by its end.

    Attributes:
        days: The days. seqs: For each, the sequences of its transactions and of its labels, 0
            where a label is not known by the end.
        last_seq: The sequence of the last event.
    """

    days: list[Day]
    seqs: list[tuple[np.ndarray, np.ndarray]]
    last_seq: int


def simulate(traffic: Traffic, days: int, step: Step) -> History:
    """Make `days` days and number their events in order of time. `step(done, of)` is called."""
    made = []
    for number in range(days):
        made.append(traffic.day(number))
        step(number + 1, days)
    end = START_US + days * DAY_US
    times = np.concatenate([d.time for d in made] + [d.label_time for d in made])
    order = np.argsort(times, kind="stable")
    seqs = np.empty(len(times), dtype=np.int64)
    seqs[order] = np.arange(1, len(times) + 1)
    seqs[times >= end] = 0
    bounds = np.cumsum([len(d) for d in made])[:-1]
    total = len(times) // 2
    pairs = zip(np.split(seqs[:total], bounds), np.split(seqs[total:], bounds), strict=True)
    return History(made, list(pairs), int(np.count_nonzero(times < end)))


def write_lake(lake: Lake, history: History, step: Step) -> tuple[pa.Table, pa.Table]:
    """Put a history into the lake, a file a day. Returns its transactions and labels."""
    transactions, labels = [], []
    for number, (day, (seq, label_seq)) in enumerate(
        zip(history.days, history.seqs, strict=True), start=1
    ):
        known = np.nonzero(label_seq)[0]
        transactions.append(transaction_table(day, seq))
        labels.append(label_table(day, known, label_seq[known]))
        name = f"history-{day.number:05d}"
        lake.write(TRANSACTIONS_TABLE, transactions[-1], name)
        lake.write(LABELS_TABLE, labels[-1], name, partition=False)
        lake.write(TRUTH_TABLE, _truth(day, transactions[-1]), name, partition=False)
        step(number, len(history.days))
    return pa.concat_tables(transactions), pa.concat_tables(labels)


def _truth(day: Day, transactions: pa.Table) -> pa.Table:
    """What the simulator knows and nobody else: for measuring recall by scenario."""
    return transactions.select(["seq", "transaction_id"]).append_column(
        "scenario", pa.array(day.scenario)
    )


def fold_history(events: Events) -> dict[str, Backfilled]:
    """States after all of history, and the rows before each event."""
    return backfill(STATES, events, contributions, np.arange(len(events)))


def write_states(
    lake: Lake, events: Events, folded: dict[str, Backfilled], since: float, step: Step
) -> None:
    """Write the log of states, from event time `since` (seconds) on, for training to join."""
    for number, done in enumerate(folded.values(), start=1):
        write_log(lake, STATE_LOG, events, done, since)
        step(number, len(folded))


def load_online(tables: dict[str, OnlineTable], folded: dict[str, Backfilled], step: Step) -> None:
    """Write the final states to the online store."""
    total = sum(len(done.keys) for done in folded.values())
    count = 0
    for name, done in folded.items():
        for begin in range(0, len(done.keys), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            tables[name].store(done.keys[part], done.table[part])
            count += len(done.keys[part])
            step(count, total)
