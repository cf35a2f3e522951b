"""A system that decides a simulated stream day after day by the states of one feature set.

Its decisions reach its states, and its labels: a declined transaction has none unless it is of the
control group. A decision changes the features of the transactions behind it, in a burst within
minutes, so a day is decided in rounds until no decision changes. The first k decisions of round k
are those of a scorer that decides one transaction after another by states that are never late: each
depends on earlier ones only. So the last round's all are.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from features.aggregation import RowTable, fold_events, identify
from features.feature_set import FeatureSet
from features.reading import FeatureReader
from services.fraud.evaluation.attempts.stream import DecidedEvents, SimulatedStream
from services.fraud.evaluation.selective_labels.drill import FIRST_DAY, WINDOW_DAYS, fit
from services.fraud.ingestion.columns import Events
from services.fraud.problem import DECLINE, DISPUTE_WINDOW_DAYS, CostModel
from services.fraud.review.control import propensity
from services.platform.models.candidates import Candidate, Examples
from services.platform.types import Booleans, Floats, Floats32, Integers


class Decider:
    """One system.

    Attributes:
        vectors: (N, F) features as they were when it decided; float32, as in the trees.
        declined: (N,) whether it declined a transaction.
    """

    def __init__(
        self, features: FeatureSet, stream: SimulatedStream, drawn: Floats, share: float, seed: int
    ) -> None:
        """Begin with empty states.

        Args:
            features: Its feature set.
            stream: The N transactions.
            drawn: (N,) the draw of each, for the control group.
            share: Share of would-be declines in the control group.
            seed: Of the training.
        """
        count = len(stream.fraud)
        self._features, self._stream, self._seed = features, stream, seed
        self._drawn, self._chance = drawn, propensity(stream.amount, share)
        self._reader = FeatureReader(features)
        self._tables = {state.name: RowTable(state) for state in features.states}
        self.vectors: Floats32 = np.zeros((count, len(features.tabular)), dtype=np.float32)
        # Of each label; 0 where none exists.
        self._propensity = np.ones(count)
        self.declined: Booleans = np.zeros(count, dtype=bool)

    def run(self, days: int) -> Iterator[int]:
        """Decide days 0, 1, ...; approve all before `FIRST_DAY`. Yields each day's number."""
        for day in range(days):
            self.decide(day, self._fit(day) if day >= FIRST_DAY else None)
            yield day

    def _fit(self, day: int) -> Candidate:
        end = day - DISPUTE_WINDOW_DAYS
        known = (self._stream.day >= end - WINDOW_DAYS) & (self._stream.day < end)
        data = Examples(self.vectors, self._stream.fraud, self._stream.amount)
        return fit(data, known, self._propensity, self._seed, self._features.tabular)

    def decide(self, day: int, model: Candidate | None) -> None:
        """Decide a day, the one after the last.

        Args:
            day: Its number.
            model: What decides; None approves all.
        """
        events, transaction = self._stream.of_day(day)
        today = transaction[events.is_transaction]
        identified = {s.name: identify(s, events.keys) for s in self._features.states}
        positions = {n: self._tables[n].positions(keys) for n, (_, keys) in identified.items()}
        codes = {name: rows for name, (rows, _) in identified.items()}
        decided = None
        while decided is None or (decided != self.declined[today]).any():
            decided = self.declined[today]
            parts = {name: self._tables[name].load(found) for name, found in positions.items()}
            self._fold(events, transaction, codes, parts)
            if model is not None:
                self._apply(model, today)
        for name, part in parts.items():
            self._tables[name].store(positions[name], part)

    def _fold(
        self,
        events: Events,
        transaction: Integers,
        codes: Mapping[str, Integers],
        parts: Mapping[str, Floats],
    ) -> None:
        """Fold a day's events as they are decided so far, and note the vectors."""
        # A label that does not exist is no event.
        happened = events.is_transaction | (self._propensity[transaction] > 0)
        rows = {name: np.where(happened, of, -1) for name, of in codes.items()}
        index = np.where(events.is_transaction, np.cumsum(events.is_transaction) - 1, -1)
        decided = DecidedEvents(events, ~self.declined[transaction])
        snapshots = fold_events(self._features.states, decided, rows, parts, index)
        today = transaction[events.is_transaction]
        self.vectors[today] = self._reader.vectors(snapshots, self._stream.request[today])

    def _apply(self, model: Candidate, today: Integers) -> None:
        amount, chance = self._stream.amount[today], self._chance[today]
        score = model.score(Examples(self.vectors[today], self._stream.fraud[today], amount))
        would_decline = CostModel().outcomes(score, 0.0, amount) == DECLINE
        control = would_decline & (self._drawn[today] < chance)
        self.declined[today] = would_decline & ~control
        self._propensity[today] = np.where(would_decline, np.where(control, chance, 0.0), 1.0)
