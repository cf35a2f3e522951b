"""The magnetic-tile protocol: real pictures, whole tiles held out, five folds, several seeds.

Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2018. Frames
that follow each other are one tile under several lights, so a random split would have seen the
test: folds go by group. Few groups a class (8 of Fray, 11 of Crack) make every figure uncertain,
which is what the intervals say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedGroupKFold

from services.cv_inspection.datasets import read
from services.cv_inspection.pictures import Pictures
from services.cv_inspection.training import all_cores, hyperparameters, mask_iou, new_candidate
from services.skeleton.comparison import interval
from services.skeleton.progress import Bar

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
    found: dict[str, list[float]] = {}
    for seed in seeds:
        cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = list(cut.split(data.pictures.label, data.pictures.label, data.pictures.unit))
        for number, (fit, test) in enumerate(parts, start=1):
            with bar(f"seed {seed}, fold {number} of {folds}") as step, all_cores():
                made = new_candidate(candidate, data.classes, SETTINGS)
                train = data.pictures.where(fit)
                # Balanced accuracy takes all classes for equal: no correction for how often good
                # parts come.
                even = train.where(train.even(np.random.default_rng(seed)))
                made.fit(train, even, seed, step)
                one = judge(*made.predict(data.pictures.vectors[test]), data.pictures.where(test))
            for name, value in one.items():
                found.setdefault(name, []).append(value)
    return {name: Interval.of(values) for name, values in found.items()}


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
