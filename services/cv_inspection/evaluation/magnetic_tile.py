"""The magnetic-tile protocol: real images, whole tiles held out, five folds, several seeds.

Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2018.
Consecutive frames show one tile under several lights, so a random split would leak: folds are split
by group. Few groups a class (8 of Fray, 11 of Crack) make every metric uncertain, as the intervals
show.
"""

from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from services.cv_inspection.features.labelled_images import LabelledImages, mask_iou
from services.cv_inspection.retraining.folders import FolderDataset, read_folder
from services.cv_inspection.retraining.training import new_candidate
from services.platform.evaluation.comparison import interval
from services.platform.hooks import Evaluation, EvaluationRequest, Table
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.runtime.worker import training_threads

FOLDS = 5
# There are few tiles, each under several lights: the encoder's batch statistics and first layers
# stay ImageNet's, or training memorises the tiles, and exposure varies as much as in the data set.
# A crack is a pixel wide at 128 px. Measurements: ADR 10.
SETTINGS: Mapping[str, object] = {
    "size": 224,
    "epochs": 12,
    "learning_rate": 0.0003,
    "frozen_layers": 4,
    "focal_gamma": 0.0,
    "exposure_jitter": 0.4,
    "freeze_batch_norm": True,
}
_FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean over folds and seeds, and its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """The mean and interval of some values; for one value the interval is empty."""
        return cls(float(np.nanmean(values)), *interval(values))


def evaluate(
    folder: Path, candidate: str, seeds: list[int], bar: ProgressBar, folds: int = FOLDS
) -> dict[str, Interval]:
    """Grouped k-fold: `auc`, `recall_at_5fpr`, `balanced_accuracy`, `miou`.

    auc and recall_at_5fpr are of defect against free; balanced_accuracy is over all classes; miou
    is the mean over the defect classes of the IoU pooled over a class's images, without background.

    Raises:
        KeyError: no such candidate.
        ValueError: the folder is not the data set, or has too few groups.
    """
    new_candidate(candidate)
    size = int(str(SETTINGS["size"]))
    with bar(f"reading {folder.name}") as step:
        data = read_folder(folder, size, step)
    _check_groups(data, folds)
    runs = [(seed, number) for seed in seeds for number in range(folds)]
    with bar(f"{folds} folds, {len(seeds)} seeds") as step:
        results = _evaluate_in_parallel(_Folds(data, candidate, folds), runs, step)
    return {name: Interval.of([result[name] for result in results]) for name in results[0]}


def evaluation(request: EvaluationRequest, bar: ProgressBar) -> Evaluation:
    """Run the protocol for tables and machines.

    Raises:
        KeyError: no such candidate.
        ValueError: the folder is not what is expected.
    """
    if not (request.file / "groups.csv").exists():
        raise ValueError(
            f"{request.file} has no groups.csv: without its groups a tile would be on both sides"
        )
    seeds = list(range(request.seed, request.seed + request.seeds))
    found = evaluate(request.file, request.candidate, seeds, bar)
    rows = [
        (name, f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}") for name, one in found.items()
    ]
    title = f"Magnetic tile (real images), {request.candidate}"
    figures = {"seeds": len(seeds), **{name: asdict(one) for name, one in found.items()}}
    return Evaluation(figures, Table(title, ("", "mean", "95 % interval"), rows))


def _check_groups(data: FolderDataset, folds: int) -> None:
    for number, name in enumerate(data.classes):
        tiles = len(np.unique(data.images.unit[data.images.label == number]))
        if tiles < folds:
            raise ValueError(f"{name} has {tiles} tiles, and each of {folds} folds needs one")


@dataclass(frozen=True)
class _Folds:
    """What each process needs to evaluate folds.

    Attributes:
        data: The images.
        candidate: Name of the candidate.
        count: How many folds.
    """

    data: FolderDataset
    candidate: str
    count: int

    def evaluate(self, seed: int, number: int, step: ProgressCallback) -> dict[str, float]:
        """Train on all folds but one, and evaluate on that one."""
        images = self.data.images
        folds = StratifiedGroupKFold(self.count, shuffle=True, random_state=seed)
        fit, test = list(folds.split(images.label, images.label, images.unit))[number]
        train = images.select(fit)
        # Balanced validation images, so that priors are not adjusted: balanced accuracy weighs all
        # classes alike.
        validation = train.select(train.balanced(np.random.default_rng(seed)))
        candidate = new_candidate(self.candidate, self.data.classes, SETTINGS)
        candidate.fit(train, validation, seed, step)
        return protocol_metrics(*candidate.predict(images.vectors[test]), images.select(test))


def _evaluate_in_parallel(
    folds: _Folds, runs: list[tuple[int, int]], step: ProgressCallback
) -> list[dict[str, float]]:
    """The metrics of folds (seed, number), trained in as many processes as there are cores.

    Two folds at a time on one core each take two thirds of the time of one after the other on both
    cores, because threads wait for each other in every layer.
    """
    context = get_context("spawn")
    done: Any = context.Array("d", len(runs))
    cores = training_threads()
    processes = min(cores, len(runs))
    pool = ProcessPoolExecutor(
        processes, context, _initialise_process, (folds, done, cores // processes)
    )
    try:
        futures = [pool.submit(_evaluate_fold, row, *run) for row, run in enumerate(runs)]
        while (state := wait(futures, 1.0, FIRST_EXCEPTION)).not_done:
            for future in state.done:
                future.result()
            step(round(100 * sum(done[:])), 100 * len(runs))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


# State of a worker process, set by `_initialise_process`.
_process_state: list[tuple[_Folds, Any]] = []


def _initialise_process(folds: _Folds, done: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _process_state.append((folds, done))


def _evaluate_fold(row: int, seed: int, number: int) -> dict[str, float]:
    [(folds, done)] = _process_state

    def report(step: int, total: int) -> None:
        done[row] = step / total

    return folds.evaluate(seed, number, report)


def protocol_metrics(
    probabilities: np.ndarray, masks: np.ndarray, images: LabelledImages
) -> dict[str, float]:
    """The protocol's metrics on images, from (N, C) probabilities and (N, S, S) mask logits."""
    score, predicted = 1.0 - probabilities[:, 0], probabilities.argmax(axis=1)
    false_alarms, recall, _ = roc_curve(images.positive, score)
    return {
        "auc": float(roc_auc_score(images.positive, score)),
        "recall_at_5fpr": float(recall[false_alarms <= _FALSE_ALARM_RATE].max()),
        "balanced_accuracy": float(balanced_accuracy_score(images.label, predicted)),
        "miou": mask_iou(masks, images),
    }
