"""Streams with known drift for the drift benchmark.

A model is trained on the first days of a simulated data set as usual. Then the simulation drifts
for three days and rests for a week, several times: the monitored features forget within days.
Concept drift does not show in the features: it persists, and shows in the cost once labels arrive.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from monitoring.drift_benchmark import BenchmarkStream, InjectedDrift
from monitoring.quality import BASELINE_PERIODS
from monitoring.reference import Reference
from services.fraud.evaluation.simulated_data import SimulatedData, midnight
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.monitoring.drift import MIN_ROWS, monitored_columns, reference
from services.fraud.problem import DISPUTE_WINDOW_DAYS, CostModel
from services.fraud.retraining.training import new_candidate
from services.fraud.simulator.drift import Drift
from services.platform.models.candidates import Candidate
from services.platform.progress import ProgressCallback
from services.platform.types import Floats

DRIFTS = ("covariate", "holiday", "null_device", "concept")
_FIT_UNTIL, _VALIDATION_UNTIL = 37, 44
_LIVE_FROM, _DRIFT_DAYS, _REST_DAYS, _ONSETS = 58, 3, 7, 4
_CLEAN_DAYS = 150
_BOOSTING_ROUNDS = 120
_CONCEPT_DAYS = 24


class MonitoredModel:
    """A model trained on a simulated data set, with its drift reference.

    Attributes:
        model: The trained candidate.
        threshold: Its threshold of least cost.
        reference: The drift monitor's reference.
        baseline_costs: (BASELINE_PERIODS,) log mean cost of the days before the stream begins.
    """

    def __init__(self, seed: int, data: SimulatedData) -> None:
        fit = data.examples(WARM_UP_DAYS, _FIT_UNTIL)
        valid = data.examples(_FIT_UNTIL, _VALIDATION_UNTIL)
        self.model: Candidate = new_candidate("xgboost")
        self.model.parameters["rounds"] = _BOOSTING_ROUNDS
        self.model.fit(fit, valid, seed, lambda *_: None)
        self.threshold = CostModel().best_threshold(
            self.model.score(valid), valid.positive, valid.amount
        )
        known = data.between_days(WARM_UP_DAYS, _VALIDATION_UNTIL)
        score = self.model.score(data.examples(WARM_UP_DAYS, _VALIDATION_UNTIL))
        self.reference: Reference = reference(
            monitored_columns(data.vectors[known], score), data.time[known]
        )
        self.baseline_costs = self.costs(data, _LIVE_FROM - BASELINE_PERIODS, _LIVE_FROM)

    def windows(self, data: SimulatedData, first: int, last: int) -> list[Floats]:
        """The monitored columns of each day from `first` up to, not including, `last`."""
        days = [data.examples(day, day + 1) for day in range(first, last)]
        windows = [monitored_columns(day.vectors, self.model.score(day)) for day in days]
        return [window for window in windows if len(window) >= MIN_ROWS]

    def costs(self, data: SimulatedData, first: int, last: int) -> Floats:
        """(D,) log of each day's mean cost per transaction; the log damps a single large fraud."""
        out = []
        for day in (data.examples(d, d + 1) for d in range(first, last)):
            score = self.model.score(day).astype(np.float64)
            outcome = CostModel().outcomes(score, self.threshold, day.amount)
            out.append(np.log1p(CostModel().costs(outcome, day.positive, day.amount).mean()))
        return np.array(out)


def streams(
    seeds: list[int], injected: Sequence[InjectedDrift], step: ProgressCallback
) -> Iterator[BenchmarkStream]:
    """For each seed, one stream of clean days and the streams with each injected drift."""
    total = len(seeds) * (1 + len(injected))
    done = 0
    for seed in seeds:
        monitored, clean = _clean_stream(seed)
        yield clean
        done += 1
        step(done, total)
        for drift, strength in injected:
            yield from _drifted_streams(seed, monitored, drift, strength)
            done += 1
            step(done, total)


def _clean_stream(seed: int) -> tuple[MonitoredModel, BenchmarkStream]:
    """The monitored model of a seed and its clean stream; the large data set is not kept."""
    data = SimulatedData(seed, _LIVE_FROM + _CLEAN_DAYS)
    monitored = MonitoredModel(seed, data)
    return monitored, _stream(monitored, data, "", 0.0, _LIVE_FROM, _CLEAN_DAYS)


def _drifted_streams(
    seed: int, monitored: MonitoredModel, drift: str, strength: float
) -> Iterator[BenchmarkStream]:
    change = Drift(**{drift: strength})
    if drift == "concept":
        data = SimulatedData(seed, _LIVE_FROM + _CONCEPT_DAYS, ((midnight(_LIVE_FROM), change),))
        yield _stream(monitored, data, drift, strength, _LIVE_FROM, _CONCEPT_DAYS)
        return
    onsets = [_LIVE_FROM + number * (_DRIFT_DAYS + _REST_DAYS) for number in range(_ONSETS)]
    schedule = [
        part
        for day in onsets
        for part in ((midnight(day), change), (midnight(day + _DRIFT_DAYS), Drift()))
    ]
    data = SimulatedData(seed, onsets[-1] + _DRIFT_DAYS, tuple(schedule))
    for day in onsets:
        yield _stream(monitored, data, drift, strength, day, _DRIFT_DAYS)


def _stream(
    monitored: MonitoredModel,
    data: SimulatedData,
    drift: str,
    strength: float,
    first: int,
    days: int,
) -> BenchmarkStream:
    return BenchmarkStream(
        monitored.reference, drift, strength, monitored.windows(data, first, first + days),
        monitored.costs(data, first, first + days), monitored.baseline_costs, DISPUTE_WINDOW_DAYS,
    )  # fmt: skip
