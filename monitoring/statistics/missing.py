"""Change of the share of missing values: a client that stopped sending a field."""

import numpy as np

from monitoring.drift_statistic import DriftStatistic, ReferenceColumn, Summary
from monitoring.statistics import STATISTICS
from services.platform.types import Floats


def missing_share(column: Floats) -> float:
    """Share of a column's values that are NaN, 0..1.

    >>> missing_share(np.array([1.0, np.nan, 3.0, 4.0]))
    0.25
    """
    return float(np.isnan(column).sum() / len(column))


@STATISTICS.register
class MissingShare(DriftStatistic):
    """Absolute difference of two shares of missing values."""

    name = "missing"
    unit = "share"
    why = "a client that stopped sending a field"

    def summarise(self, reference: ReferenceColumn) -> Summary:
        return {"share": np.array(missing_share(reference.values))}

    def distance(self, summary: Summary, window: Floats) -> float:
        return abs(missing_share(window) - float(summary["share"]))
