"""Rows over several seeds, and the share of the gap that federation closes."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from services.fraud.evaluation.federation.results import Row
from services.fraud.privacy.job import NETWORK, TREES


def mean(of_seeds: list[Row]) -> Row:
    """The mean of a row over the seeds, with Student's 95 % intervals."""
    columns = ("ap", "ap_worst_bank", "cost_per_day", "bytes_out", "seconds")
    values = {name: np.array([getattr(row, name) for row in of_seeds]) for name in columns}
    means = {name: float(of.mean()) for name, of in values.items()}
    first = of_seeds[0]
    if len(of_seeds) == 1:
        return first
    half = {
        name: float(stats.t.ppf(0.975, len(of) - 1) * of.std(ddof=1) / np.sqrt(len(of)))
        for name, of in values.items()
    }
    intervals = {n: (means[n] - half[n], means[n] + half[n]) for n in columns[:3]}
    return Row(first.name, **means, intervals=intervals, details=first.details)


def gap_closed(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The share of the gap between alone and all rows in one place that the best row closes.

    Returns:
        By kind of model, and by column.
    """
    row_of = {row.name: row for row in rows}
    return {
        kind: {
            column: _share(column, row_of[alone], [row_of[n] for n in federated], row_of[central])
            for column in ("ap", "ap_worst_bank")
        }
        for kind, alone, federated, central in (
            (NETWORK, "alone", ("fedavg", "fedprox"), "central"),
            (TREES, "alone_xgboost", ("bagging", "histograms"), "central_xgboost"),
        )
    }


def _share(column: str, alone: Row, federated: Sequence[Row], central: Row) -> float:
    low, high = getattr(alone, column), getattr(central, column)
    return (max(getattr(row, column) for row in federated) - low) / max(high - low, 1e-9)
