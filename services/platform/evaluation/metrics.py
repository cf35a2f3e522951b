"""Metrics of a scorer, and the three plots that every training run logs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from services.platform.evaluation.cost import CostModel
from services.platform.types import Booleans, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration_error(score: Floats, positive: Booleans, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins, in 0..1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    >>> calibration_error(np.array([0.25, 0.25]), np.array([False, True]))
    0.25
    """
    which = np.minimum((score * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.bincount(which, weights=score, minlength=bins) - np.bincount(
        which, weights=positive, minlength=bins
    )
    return float(np.abs(gap).sum() / max(count.sum(), 1))


def metrics(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> dict[str, float]:
    """Metrics of N scored examples at a threshold; costs and `amount` (N,) in minor units."""
    flagged = score >= threshold
    hits = int((flagged & positive).sum())
    return {
        "ap": float(average_precision_score(positive, score)),
        "auc": float(roc_auc_score(positive, score)),
        "precision": hits / max(int(flagged.sum()), 1),
        "recall": hits / max(int(positive.sum()), 1),
        "ece": calibration_error(score, positive),
        "threshold": threshold,
        "cost": cost.total(flagged, positive, amount),
        "cost_approve_all": cost.total(np.zeros_like(flagged), positive, amount),
    }


def plots(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> Mapping[str, "Figure"]:
    """Plots by file name: precision by recall, cost by threshold, calibration."""
    return {
        "precision_recall.png": _precision_recall(score, positive),
        "cost_by_threshold.png": _cost_by_threshold(score, positive, amount, threshold, cost),
        "calibration.png": _calibration(score, positive),
    }


def _axes(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    # Imported here: the monitor needs metrics and no plots.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _precision_recall(score: Floats, positive: Booleans) -> "Figure":
    figure, axes = _axes("Precision and recall", "recall", "precision")
    precision, recall, _ = precision_recall_curve(positive, score)
    axes.plot(recall, precision)
    axes.axhline(float(positive.mean()), linestyle=":", color="grey", label="chance")
    axes.legend()
    return figure


def _cost_by_threshold(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> "Figure":
    figure, axes = _axes("Cost by threshold", "threshold", "cost, major units")
    thresholds, costs = cost.by_threshold(score, positive, amount)
    axes.plot(thresholds[1:], costs[1:] / 100)
    axes.axhline(costs[0] / 100, linestyle=":", color="grey", label="approve everything")
    axes.axvline(threshold, linestyle="--", color="tab:red", label=f"chosen: {threshold:.3f}")
    axes.set(yscale="log")
    axes.legend()
    return figure


def _calibration(score: Floats, positive: Booleans) -> "Figure":
    figure, axes = _axes("Calibration", "mean score", "share of positives")
    share, mean = calibration_curve(positive, score, n_bins=15)
    axes.plot(mean, share, marker="o")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="perfect")
    axes.legend()
    return figure
