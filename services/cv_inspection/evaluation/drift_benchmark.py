"""Simulated streams with known drift, for the drift benchmark.

A lens or a lamp that fails shows in image quality at once. A new defect shows only in the escapes:
it lasts, and shows in the cost once labels have arrived.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.drift_benchmark import BenchmarkStream, InjectedDrift
from monitoring.quality import BASELINE_PERIODS
from monitoring.reference import Reference
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.model import ImageModel
from services.cv_inspection.monitoring.drift import RISING, WINDOW_IMAGES, reference
from services.cv_inspection.problem import CostModel
from services.cv_inspection.simulator.camera import DEFECT_SHARE
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.labelled_images import VALIDATION_IMAGES, simulated_images
from services.platform.progress import ProgressCallback
from services.platform.types import Floats

# By drift: (number of streams, windows of each).
DRIFTS = {"blur": (4, 3), "exposure": (4, 3), "new_defect": (1, 24)}
_CLEAN = 50
# Operators have labelled a window's images by the end of the next window.
_LABEL_DELAY_WINDOWS = 1
_FROM = 2_000_000


@dataclass(frozen=True)
class _Line:
    """A line with its model and the monitors' baselines.

    Attributes:
        model: The champion.
        seed: Seed of the camera.
        reference: Of the drift monitor.
        first_costs: (W,) logarithm of the mean cost of an image in each of the first windows.
    """

    model: ImageModel
    seed: int
    reference: Reference
    first_costs: Floats

    def stream(
        self, first: int, count: int, drift: str = "", strength: float = 0.0
    ) -> BenchmarkStream:
        change = CameraDrift.parse(f"{drift}={strength}") if drift else CameraDrift()
        windows, costs = _windows(self.model, self.seed, first, count, change)
        return BenchmarkStream(
            self.reference,
            drift,
            strength,
            windows,
            costs,
            self.first_costs,
            _LABEL_DELAY_WINDOWS,
            RISING,
        )


def streams(
    model: ImageModel, seeds: list[int], injected: Sequence[InjectedDrift], step: ProgressCallback
) -> Iterator[BenchmarkStream]:
    """For each seed, a stream of clean windows and the streams of each injected drift."""
    total = len(seeds) * (1 + len(injected))
    done = 0
    for seed in seeds:
        line = _line(model, seed)
        yield line.stream(_FROM, _CLEAN)
        done += 1
        step(done, total)
        for number, (drift, strength) in enumerate(injected):
            times, count = DRIFTS[drift]
            for onset in range(times):
                first = _FROM + 100_000 * (number + 1) + 10_000 * onset
                yield line.stream(first, count, drift, strength)
            done += 1
            step(done, total)


def _line(model: ImageModel, seed: int) -> _Line:
    images = simulated_images(
        seed, _FROM - 10_000, VALIDATION_IMAGES, DEFECT_SHARE, model.size, _no_progress
    )
    baseline = reference(images, *_score(model, images), seed)
    _, first_costs = _windows(model, seed, _FROM - 5_000, BASELINE_PERIODS, CameraDrift())
    return _Line(model, seed, baseline, first_costs)


def _windows(
    model: ImageModel, seed: int, first: int, count: int, drift: CameraDrift
) -> tuple[list[Floats], Floats]:
    """Windows (n, F) of the monitored columns, and (W,) log1p of the mean cost of an image."""
    windows, costs = [], []
    for number in range(count):
        begin = first + number * WINDOW_IMAGES
        images = simulated_images(
            seed, begin, WINDOW_IMAGES, DEFECT_SHARE, model.size, _no_progress, drift
        )
        score, novelty = _score(model, images)
        windows.append(np.column_stack([novelty, images.quality, score]))
        stopped = score >= model.card.threshold
        costs.append(np.log1p(CostModel().costs(stopped, images.positive, images.amount).mean()))
    return windows, np.array(costs)


def _score(model: ImageModel, images: LabelledImages) -> tuple[Floats, Floats]:
    """(N,) P(defect), and (N,) novelty."""
    found = model.inspect(images.vectors)
    good, novelty = found.probabilities[:, 0], found.novelty
    return 1.0 - good.astype(np.float64), novelty.astype(np.float64)


def _no_progress(done: int, total: int) -> None:
    """Progress is reported by stream, not by image."""
