"""Streams whose truth is known, for the monitors' scorecard: this design's drifts."""

from collections.abc import Iterator

import numpy as np

from monitoring.scorecard import Stream
from services.cv_inspection.model import ImageModel
from services.cv_inspection.monitor import WINDOW, reference
from services.cv_inspection.pictures import Pictures
from services.cv_inspection.simulator.camera import DEFECT_SHARE
from services.cv_inspection.simulator.drift import Drift
from services.cv_inspection.training import VALIDATION_PICTURES, simulated
from services.skeleton.kpi import Floats
from services.skeleton.progress import Step

STRENGTHS = (0.25, 0.5, 1.0)
DRIFTS = ("blur", "exposure", "new_defect")
_WINDOWS, _ONSETS, _CLEAN = 3, 4, 50
_FROM = 2_000_000


def _nobody(done: int, of: int) -> None:
    """Nobody is told."""


def streams(model: ImageModel, seeds: list[int], step: Step) -> Iterator[Stream]:
    """Every drift at every strength, and clean pictures, for each seed."""
    of = len(seeds) * (1 + len(DRIFTS) * len(STRENGTHS))
    done = 0
    for seed in seeds:
        known = simulated(
            seed, _FROM - 10_000, VALIDATION_PICTURES, DEFECT_SHARE, model.size, _nobody
        )
        normal = reference(known, _score(model, known), seed)
        yield Stream(normal, "", 0.0, _windows(model, seed, _FROM, _CLEAN, Drift()))
        done += 1
        step(done, of)
        for number, (drift, strength) in enumerate((d, s) for d in DRIFTS for s in STRENGTHS):
            for onset in range(_ONSETS):
                first = _FROM + 100_000 * (number + 1) + 10_000 * onset
                change = Drift.parse(f"{drift}={strength}")
                windows = _windows(model, seed, first, _WINDOWS, change)
                yield Stream(normal, drift, strength, windows)
            done += 1
            step(done, of)


def _windows(model: ImageModel, seed: int, first: int, count: int, drift: Drift) -> list[Floats]:
    found = []
    for number in range(count):
        begin = first + number * WINDOW
        shown = simulated(seed, begin, WINDOW, DEFECT_SHARE, model.size, _nobody, drift)
        found.append(np.column_stack([shown.quality, _score(model, shown)]))
    return found


def _score(model: ImageModel, pictures: Pictures) -> Floats:
    parts = [model.score(pictures.vectors[i : i + 50]) for i in range(0, len(pictures), 50)]
    return np.concatenate(parts).astype(np.float64)
