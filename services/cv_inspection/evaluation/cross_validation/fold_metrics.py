"""Metrics of cross-validated folds, and their intervals."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    roc_curve,
)

from services.cv_inspection.evaluation.cross_validation.folds import FoldResult
from services.cv_inspection.problem import ESCAPE_COST_MINOR, CostModel
from services.platform.evaluation.comparison import interval

_FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean over folds and seeds, and its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """The mean and interval of some values; both are the value if there is one, NaN if none."""
        if np.isnan(values).all():
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(float(np.nanmean(values)), *interval(values))


def fold_metrics(fold: FoldResult) -> dict[str, float]:
    """The metrics of one fold.

    auc, ap and recall_at_5fpr are of defect against good; balanced_accuracy is over all classes;
    miou and miou_native are the mean over the defect classes of the IoU pooled over a class's
    images, without background, at the network's and at the images' own size; cost_1000 is of 1,000
    such images, minor units, at the threshold from the training part.
    """
    positive, score = fold.label > 0, fold.defect
    false_alarms, recall, _ = roc_curve(positive, score)
    metrics = {
        "auc": float(roc_auc_score(positive, score)),
        "ap": float(average_precision_score(positive, score)),
        "recall_at_5fpr": float(recall[false_alarms <= _FALSE_ALARM_RATE].max()),
        "balanced_accuracy": float(
            balanced_accuracy_score(fold.label, fold.probabilities.argmax(axis=1))
        ),
        "miou": _mean_iou(fold, 0),
        "miou_native": _mean_iou(fold, 1),
    }
    if not np.isnan(fold.threshold):
        amount = np.full(len(score), float(ESCAPE_COST_MINOR))
        cost = CostModel().total(score >= fold.threshold, positive, amount)
        metrics["cost_1000"] = cost * 1_000 / len(score)
    return metrics


def _mean_iou(fold: FoldResult, size: int) -> float:
    pooled = []
    for kind in np.unique(fold.label[fold.label > 0]):
        intersection, union = fold.overlap[fold.label == kind, size].sum(axis=0)
        if union:
            pooled.append(intersection / union)
    return float(np.mean(pooled)) if pooled else float("nan")


def intervals(folds: list[FoldResult]) -> dict[str, Interval]:
    """Each metric's mean and interval over folds."""
    runs = [fold_metrics(fold) for fold in folds]
    return {name: Interval.of([run[name] for run in runs]) for name in runs[0]}
