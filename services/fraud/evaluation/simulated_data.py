"""A simulated world in memory, as a model sees it: a minute a year, no engine asked.

The simulator's days go through the kernel that the workers and the backfill use, so the vectors are
those that a scorer would have logged. For what needs many days of known truth: the monitors'
scorecard, and the drill.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from features.aggregation import backfill
from features.spec import Floats
from services.fraud.features.backfill import simulate
from services.fraud.features.states import STATES, TABULAR, contributions, vectors
from services.fraud.ingestion.events import Events
from services.fraud.retraining.training import entity_frame, own_frame
from services.fraud.simulator.drift import Schedule
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import DAY_US, START_US, Traffic
from services.platform.evaluation.cost import Booleans
from services.platform.models.candidates import Examples
from services.platform.progress import Step

# Rows at a time: whole vectors of a year would be several times what is kept of them.
_CHUNK = 100_000


def midnight(day: int) -> int:
    """When a day begins, microseconds since the epoch."""
    return START_US + day * DAY_US


class World:
    """Days of a simulated world, N transactions.

    Attributes:
        vectors: (N, F) tabular features as of just before each. time: (N,) event time, seconds.
        day: (N,) number of its day. fraud, amount: (N,) outcome, and minor units.
        customer: (N,) number of who paid.
    """

    def __init__(
        self, seed: int, days: int, schedule: Schedule = (), step: Step = lambda *_: None
    ) -> None:
        history = simulate(Traffic(seed, schedule), days, step)
        pairs = list(zip(history.days, history.seqs, strict=True))
        transactions = pa.concat_tables([transaction_table(d, seq) for d, (seq, _) in pairs])
        labels = pa.concat_tables(
            [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
        )
        events = Events.from_tables(transactions, labels)
        slots = np.where(events.sighting, np.cumsum(events.sighting) - 1, -1)
        folded = backfill(STATES, events, contributions, slots)
        frame = entity_frame(transactions)
        self.vectors = _tabular({n: done.before for n, done in folded.items()}, own_frame(frame))
        self.time = np.array(frame["request_seconds"])
        self.day = ((self.time * 1e6 - START_US) // DAY_US).astype(np.int64)
        self.fraud: Booleans = np.concatenate([day.scenario > 0 for day in history.days])
        self.amount = np.concatenate([d.amount for d in history.days]).astype(np.float64)
        self.customer = pd.factorize(transactions["customer_id"].to_numpy(zero_copy_only=False))[0]

    def between(self, first: int, last: int) -> Booleans:
        """(N,) which are of day `first` or later, and before day `last`."""
        return (self.day >= first) & (self.day < last)

    def examples(self, first: int, last: int) -> Examples:
        """Days `first` up to, not including, `last`."""
        of = self.between(first, last)
        return Examples(self.vectors[of], self.fraud[of], self.amount[of])


def _tabular(rows: Mapping[str, Floats], own: Floats) -> Floats:
    """(N, len(TABULAR)) the tabular part of N vectors."""
    out = np.empty((len(own), len(TABULAR)))
    for begin in range(0, len(own), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        made = vectors({name: of[part] for name, of in rows.items()}, own[part])
        out[part] = made[:, : len(TABULAR)]
    return out
