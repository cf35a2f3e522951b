"""The federation's table as a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from services.fraud.evaluation.federation.results import Row


def plot(rows: Sequence[Row], path: Path) -> None:
    """Average precision and daily cost of each row, as bars; a PNG file."""
    figure = Figure(figsize=(9, 0.45 * len(rows) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(rows))[::-1]
    left.barh(at + 0.2, [row.ap for row in rows], 0.4, label="mean of the banks")
    left.barh(at - 0.2, [row.ap_worst_bank for row in rows], 0.4, label="worst bank")
    left.set_yticks(at, [_label(row) for row in rows])
    left.set_xlabel("average precision on the later days")
    left.legend(loc="lower right")
    right.barh(at, [row.cost_per_day for row in rows], 0.6, color="tab:gray")
    right.set_xlabel("EUR a day, all banks")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _label(row: Row) -> str:
    epsilon = row.details.get("epsilon")
    return row.name.replace("_", " ") + (f" (epsilon {epsilon:.1f})" if epsilon else "")
