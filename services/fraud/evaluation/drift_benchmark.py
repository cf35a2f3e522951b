"""Streams whose truth is known, for the monitors' scorecard: this design's drifts.

A model is trained on a world's first days as always; then the world changes for three days and
rests for a week, again and again, since what is watched forgets within days. Concept drift is in
nobody's features: it holds on, and shows in the cost once labels have come.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from monitoring.drift_benchmark import Injected, Stream
from monitoring.quality import LEARNT
from monitoring.reference import Reference
from services.fraud.evaluation.simulated_data import World, midnight
from services.fraud.monitoring.drift import LEAST_ROWS, reference, watched_columns
from services.fraud.problem import DISPUTE_WINDOW_DAYS, Kpi
from services.fraud.retraining.training import WARM_UP_DAYS, new_candidate
from services.fraud.simulator.drift import Drift
from services.platform.evaluation.cost import Floats
from services.platform.models.candidates import Candidate
from services.platform.progress import Step

DRIFTS = ("covariate", "holiday", "null_device", "concept")
_FIT_DAYS, _KNOWN_DAYS = 37, 44
_LIVE_FROM, _ON, _OFF, _ONSETS = 58, 3, 7, 4
_CLEAN_DAYS = 150
_ROUNDS = 120
_CONCEPT_DAYS = 24


class Watched:
    """A world's model and what is normal for it."""

    def __init__(self, seed: int, world: World) -> None:
        fit, valid = world.examples(WARM_UP_DAYS, _FIT_DAYS), world.examples(_FIT_DAYS, _KNOWN_DAYS)
        self.model: Candidate = new_candidate("xgboost")
        self.model.parameters["rounds"] = _ROUNDS
        self.model.fit(fit, valid, seed, lambda *_: None)
        self.threshold = Kpi().best_threshold(self.model.score(valid), valid.positive, valid.amount)
        known = world.between(WARM_UP_DAYS, _KNOWN_DAYS)
        score = self.model.score(world.examples(WARM_UP_DAYS, _KNOWN_DAYS))
        self.reference: Reference = reference(world.vectors[known], score, world.time[known])
        self.first_costs = self.costs(world, _LIVE_FROM - LEARNT, _LIVE_FROM)

    def windows(self, world: World, first: int, last: int) -> list[Floats]:
        """Days as the monitor sees them."""
        days = [world.examples(day, day + 1) for day in range(first, last)]
        made = [watched_columns(day.vectors, self.model.score(day)) for day in days]
        return [window for window in made if len(window) >= LEAST_ROWS]

    def costs(self, world: World, first: int, last: int) -> Floats:
        """(D,) logarithm of the cost of days, a transaction's mean: one large fraud is no trend."""
        out = []
        for day in (world.examples(d, d + 1) for d in range(first, last)):
            declined = self.model.score(day) >= self.threshold
            out.append(np.log1p(Kpi().costs(declined, day.positive, day.amount).mean()))
        return np.array(out)


def streams(seeds: list[int], injected: Sequence[Injected], step: Step) -> Iterator[Stream]:
    """Clean days, and what is to be injected, for each seed."""
    of = len(seeds) * (1 + len(injected))
    done = 0
    for seed in seeds:
        watched, clean = _clean(seed)
        yield clean
        done += 1
        step(done, of)
        for drift, strength in injected:
            yield from _drifted(seed, watched, drift, strength)
            done += 1
            step(done, of)


def _clean(seed: int) -> tuple[Watched, Stream]:
    """What is normal for a world, and many days of it; the world itself is large, and let go."""
    world = World(seed, _LIVE_FROM + _CLEAN_DAYS)
    watched = Watched(seed, world)
    return watched, _stream(watched, world, "", 0.0, _LIVE_FROM, _CLEAN_DAYS)


def _drifted(seed: int, watched: Watched, drift: str, strength: float) -> Iterator[Stream]:
    change = Drift(**{drift: strength})
    if drift == "concept":
        world = World(seed, _LIVE_FROM + _CONCEPT_DAYS, ((midnight(_LIVE_FROM), change),))
        yield _stream(watched, world, drift, strength, _LIVE_FROM, _CONCEPT_DAYS)
        return
    onsets = [_LIVE_FROM + number * (_ON + _OFF) for number in range(_ONSETS)]
    schedule = [
        part for day in onsets for part in ((midnight(day), change), (midnight(day + _ON), Drift()))
    ]
    world = World(seed, onsets[-1] + _ON, tuple(schedule))
    for day in onsets:
        yield _stream(watched, world, drift, strength, day, _ON)


def _stream(
    watched: Watched, world: World, drift: str, strength: float, first: int, days: int
) -> Stream:
    return Stream(
        watched.reference, drift, strength, watched.windows(world, first, first + days),
        watched.costs(world, first, first + days), watched.first_costs, DISPUTE_WINDOW_DAYS,
    )  # fmt: skip
