"""The magnetic-tile protocol: real pictures, whole tiles held out, five folds, several seeds.

Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2018. Frames
that follow each other are one tile under several lights, so a random split would have seen the
test: folds go by group. Few groups a class (8 of Fray, 11 of Crack) make every figure uncertain,
which is what the intervals say.
"""

from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.retraining.folders import Dataset, read
from services.cv_inspection.retraining.training import hyperparameters, mask_iou, new_candidate
from services.platform.evaluation.comparison import interval
from services.platform.progress import Bar, Step
from services.platform.runtime.worker import training_threads

FOLDS = 5
# Few tiles, each under several lights: the encoder's batch statistics and its parts next to the
# picture stay ImageNet's, or training learns the tiles by heart, and exposure is varied as far as
# it varies. A crack is a pixel wide at 128 px. All in ADR 10.
SETTINGS: Mapping[str, object] = {
    "size": 224,
    "epochs": 12,
    "rate": 0.0003,
    "frozen": 4,
    "focus": 0.0,
    "light": 0.4,
    "keep_statistics": True,
}
_FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean over folds and seeds with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """The interval of some values; of one value there is none."""
        return cls(float(np.nanmean(values)), *interval(values))


def evaluate(
    folder: Path, candidate: str, seeds: list[int], bar: Bar, folds: int = FOLDS
) -> dict[str, Interval]:
    """Grouped k-fold: `auc`, `recall_at_5fpr`, `balanced_accuracy`, `miou`.

    auc and recall_at_5fpr are of defect or free; balanced_accuracy is over all classes; miou is the
    mean over the defect classes of the IoU pooled over a class's pictures, background left out.

    Raises:
        KeyError: no such candidate. ValueError: the folder is not what is expected.
    """
    new_candidate(candidate)
    size = int(str({**hyperparameters(candidate), **SETTINGS}["size"]))
    with bar(f"reading {folder.name}") as step:
        data = read(folder, size, step)
    _check(data, folds)
    wanted = [(seed, number) for seed in seeds for number in range(folds)]
    with bar(f"{folds} folds, {len(seeds)} seeds") as step:
        judged = _side_by_side(_Folds(data, candidate, folds), wanted, step)
    return {name: Interval.of([one[name] for one in judged]) for name in judged[0]}


def _check(data: Dataset, folds: int) -> None:
    for number, name in enumerate(data.classes):
        tiles = len(np.unique(data.pictures.unit[data.pictures.label == number]))
        if tiles < folds:
            raise ValueError(f"{name} has {tiles} tiles, and each of {folds} folds needs one")


@dataclass(frozen=True)
class _Folds:
    """What each process that trains folds is given."""

    data: Dataset
    candidate: str
    count: int

    def judge(self, seed: int, number: int, step: Step) -> dict[str, float]:
        """Train on all folds but one, judge on that one."""
        pictures = self.data.pictures
        cut = StratifiedGroupKFold(self.count, shuffle=True, random_state=seed)
        fit, test = list(cut.split(pictures.label, pictures.label, pictures.unit))[number]
        train = pictures.where(fit)
        # Balanced accuracy takes all classes for equal: no correction for how often good parts
        # come.
        even = train.where(train.even(np.random.default_rng(seed)))
        made = new_candidate(self.candidate, self.data.classes, SETTINGS)
        made.fit(train, even, seed, step)
        return judge(*made.predict(pictures.vectors[test]), pictures.where(test))


def _side_by_side(
    folds: _Folds, wanted: list[tuple[int, int]], step: Step
) -> list[dict[str, float]]:
    """The figures of some folds (seed, number), trained in as many processes as there are cores.

    Two at once on a core each are done in two thirds of the time of one after the other on both:
    threads wait for each other in every layer.
    """
    fresh = get_context("spawn")
    done: Any = fresh.Array("d", len(wanted))
    cores = training_threads()
    processes = min(cores, len(wanted))
    pool = ProcessPoolExecutor(processes, fresh, _begin, (folds, done, cores // processes))
    try:
        runs = [pool.submit(_train, row, *one) for row, one in enumerate(wanted)]
        while (now := wait(runs, 1.0, FIRST_EXCEPTION)).not_done:
            for run in now.done:
                run.result()
            step(round(100 * sum(done[:])), 100 * len(wanted))
        return [run.result() for run in runs]
    finally:
        pool.shutdown(cancel_futures=True)


# A process's own, from `_begin` on.
_given: list[tuple[_Folds, Any]] = []


def _begin(folds: _Folds, done: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _given.append((folds, done))


def _train(row: int, seed: int, number: int) -> dict[str, float]:
    [(folds, done)] = _given

    def tell(step: int, of: int) -> None:
        done[row] = step / of

    return folds.judge(seed, number, tell)


def judge(kinds: np.ndarray, masks: np.ndarray, pictures: Pictures) -> dict[str, float]:
    """The protocol's figures on some pictures, from (N, C) probabilities and (N, S, S) logits."""
    score = 1.0 - kinds[:, 0]
    alarms, recall, _ = roc_curve(pictures.positive, score)
    return {
        "auc": float(roc_auc_score(pictures.positive, score)),
        "recall_at_5fpr": float(recall[alarms <= _FALSE_ALARMS].max()),
        "balanced_accuracy": float(balanced_accuracy_score(pictures.label, kinds.argmax(axis=1))),
        "miou": mask_iou(masks, pictures),
    }
