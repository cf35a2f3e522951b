"""Unlabelled kinds of defect: each class is left out of training in turn."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from services.cv_inspection.evaluation.cross_validation.fold_metrics import Interval
from services.cv_inspection.evaluation.cross_validation.folds import Fold, FoldResult
from services.platform.hooks import Evaluation, Table

# Weight of the novelty, which saturates at 10 standard deviations, beside the 1 of the two heads.
# Chosen on the magnetic tiles' split seed 0; flat from .3 to .75.
_WEIGHT, _NOVEL = 0.5, 10.0
_SCORES = ("supervised", "novelty", "both")


def unseen_aucs(fold: FoldResult, kind: int) -> dict[str, float]:
    """AUC of a class that training did not see against good parts, by what tells them apart."""
    rows = (fold.label == 0) | (fold.label == kind)
    positive = fold.label[rows] == kind
    novel = np.clip(fold.novelty / _NOVEL, 0.0, 1.0)
    both = (fold.defect + _WEIGHT * novel) / (1.0 + _WEIGHT)
    scores = zip(_SCORES, (fold.defect, fold.novelty, both), strict=True)
    return {name: float(roc_auc_score(positive, score[rows])) for name, score in scores}


def unseen_table(
    classes: tuple[str, ...], runs: list[Fold], results: list[FoldResult]
) -> Evaluation:
    """A row for each class that was left out, and their mean."""
    found: dict[str, dict[str, Interval]] = {}
    for number, name in enumerate(classes[1:], start=1):
        aucs = [
            unseen_aucs(result, number)
            for run, result in zip(runs, results, strict=True)
            if run.left_out == number
        ]
        found[name] = {w: Interval.of([auc[w] for auc in aucs]) for w in _SCORES}
    rows = [
        (name, *(f"{one[w].mean:.3f} [{one[w].low:.2f}, {one[w].high:.2f}]" for w in _SCORES))
        for name, one in found.items()
    ]
    mean = {w: float(np.mean([one[w].mean for one in found.values()])) for w in _SCORES}
    rows.append(("mean", *(f"{mean[w]:.3f}" for w in _SCORES)))
    figures: dict[str, Any] = {
        "unseen": {n: {w: vars(one[w]) for w in _SCORES} for n, one in found.items()},
        "mean": mean,
    }
    title = "AUC of defects that training never saw, against good parts"
    return Evaluation(figures, Table(title, ("left out", *_SCORES), rows))
