"""Streams whose truth is known, for the monitors' scorecard: this design's drifts.

A lens or a lamp that fails shows in the pictures at once. A new defect shows nowhere but in what
escapes: it holds on, and is seen in the cost once verdicts have come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.drift_benchmark import Injected, Stream
from monitoring.quality import LEARNT
from monitoring.reference import Reference
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.monitoring.drift import WINDOW, reference
from services.cv_inspection.problem import Kpi
from services.cv_inspection.retraining.training import VALIDATION_PICTURES, simulated
from services.cv_inspection.serving.model import ImageModel
from services.cv_inspection.simulator.camera import DEFECT_SHARE
from services.cv_inspection.simulator.drift import Drift
from services.platform.evaluation.cost import Floats
from services.platform.progress import Step

# By drift, how many streams of how many windows.
DRIFTS = {"blur": (4, 3), "exposure": (4, 3), "new_defect": (1, 24)}
_CLEAN = 50
# A person has judged a window's pictures by the end of the next.
_VERDICT_WINDOWS = 1
_FROM = 2_000_000


@dataclass(frozen=True)
class _Line:
    """A line with its model, what is normal for it, and what its first windows cost."""

    model: ImageModel
    seed: int
    normal: Reference
    first_costs: Floats

    def stream(self, first: int, count: int, drift: str = "", strength: float = 0.0) -> Stream:
        change = Drift.parse(f"{drift}={strength}") if drift else Drift()
        windows, costs = _windows(self.model, self.seed, first, count, change)
        return Stream(
            self.normal, drift, strength, windows, costs, self.first_costs, _VERDICT_WINDOWS
        )


def streams(
    model: ImageModel, seeds: list[int], injected: Sequence[Injected], step: Step
) -> Iterator[Stream]:
    """Clean pictures, and what is to be injected, for each seed."""
    of = len(seeds) * (1 + len(injected))
    done = 0
    for seed in seeds:
        line = _line(model, seed)
        yield line.stream(_FROM, _CLEAN)
        done += 1
        step(done, of)
        for number, (drift, strength) in enumerate(injected):
            times, count = DRIFTS[drift]
            for onset in range(times):
                first = _FROM + 100_000 * (number + 1) + 10_000 * onset
                yield line.stream(first, count, drift, strength)
            done += 1
            step(done, of)


def _line(model: ImageModel, seed: int) -> _Line:
    known = simulated(seed, _FROM - 10_000, VALIDATION_PICTURES, DEFECT_SHARE, model.size, _nobody)
    normal = reference(known, _score(model, known), seed)
    _, first_costs = _windows(model, seed, _FROM - 5_000, LEARNT, Drift())
    return _Line(model, seed, normal, first_costs)


def _windows(
    model: ImageModel, seed: int, first: int, count: int, drift: Drift
) -> tuple[list[Floats], Floats]:
    """Windows as the monitor sees them, and the logarithm of what a picture of each costs."""
    found, costs = [], []
    for number in range(count):
        begin = first + number * WINDOW
        shown = simulated(seed, begin, WINDOW, DEFECT_SHARE, model.size, _nobody, drift)
        score = _score(model, shown)
        found.append(np.column_stack([shown.quality, score]))
        stopped = score >= model.card.threshold
        costs.append(np.log1p(Kpi().costs(stopped, shown.positive, shown.amount).mean()))
    return found, np.array(costs)


def _score(model: ImageModel, pictures: Pictures) -> Floats:
    parts = [model.score(pictures.vectors[i : i + 50]) for i in range(0, len(pictures), 50)]
    return np.concatenate(parts).astype(np.float64)


def _nobody(done: int, of: int) -> None:
    """Nobody is told."""
