"""Reads references that were stored before each drift statistic kept its own summary.

Those files hold what three statistics shared: deciles' `edges` (F, 9), `counts` (F, 11) with the
missing values last, and `sample` (K, F); `clean_mean` and `clean_spread` are (3, F).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

# Order of the statistics in the first axis of `clean_mean` and `clean_spread`.
_STATISTICS = ("psi", "ks", "missing")


def upgraded(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """A reference's arrays in today's layout (see `monitoring.reference`); those are unchanged."""
    if "counts" not in arrays:
        return dict(arrays)
    edges, counts, sample = arrays["edges"], arrays["counts"], arrays["sample"]
    summaries = {
        "psi.summary.edges": edges,
        "psi.summary.counts": counts,
        "ks.summary.values": np.sort(sample.T, axis=1),
        "missing.summary.share": counts[:, -1] / counts.sum(axis=1),
    }
    calibration = {
        f"{name}.{part}": arrays[part][row]
        for row, name in enumerate(_STATISTICS)
        for part in ("clean_mean", "clean_spread")
    }
    shared = ("names", "sample", "clean", "score_mean", "score_spread", "smallest")
    return {**{key: arrays[key] for key in shared}, **summaries, **calibration}
