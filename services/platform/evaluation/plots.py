"""The three plots that every training run logs."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from services.platform.evaluation.cost import CostModel
from services.platform.types import Booleans, Floats


def plots(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> Mapping[str, Figure]:
    """Plots by file name: precision by recall, cost by threshold, calibration."""
    return {
        "precision_recall.png": _precision_recall(score, positive),
        "cost_by_threshold.png": _cost_by_threshold(score, positive, amount, threshold, cost),
        "calibration.png": _calibration(score, positive),
    }


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _precision_recall(score: Floats, positive: Booleans) -> Figure:
    figure, axes = _axes("Precision and recall", "recall", "precision")
    precision, recall, _ = precision_recall_curve(positive, score)
    axes.plot(recall, precision)
    axes.axhline(float(positive.mean()), linestyle=":", color="grey", label="chance")
    axes.legend()
    return figure


def _cost_by_threshold(
    score: Floats, positive: Booleans, amount: Floats, threshold: float, cost: CostModel
) -> Figure:
    figure, axes = _axes("Cost by threshold", "threshold", "cost, major units")
    thresholds, costs = cost.by_threshold(score, positive, amount)
    axes.plot(thresholds[1:], costs[1:] / 100)
    axes.axhline(costs[0] / 100, linestyle=":", color="grey", label="approve everything")
    axes.axvline(threshold, linestyle="--", color="tab:red", label=f"chosen: {threshold:.3f}")
    axes.set(yscale="log")
    axes.legend()
    return figure


def _calibration(score: Floats, positive: Booleans) -> Figure:
    figure, axes = _axes("Calibration", "mean score", "share of positives")
    share, mean = calibration_curve(positive, score, n_bins=15)
    axes.plot(mean, share, marker="o")
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="perfect")
    axes.legend()
    return figure
