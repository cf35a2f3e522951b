"""Percentiles of latencies, as reports name them."""

from collections.abc import Sequence

import numpy as np


def percentiles_ms(
    latency_ms: Sequence[float], wanted: Sequence[int] = (50, 95, 99), prefix: str = ""
) -> dict[str, float]:
    """Percentiles of latencies in ms by name; NaN if there are none.

    >>> percentiles_ms([1.0, 3.0], (50,), "delay_")
    {'delay_p50_ms': 2.0}
    """
    found = np.percentile(latency_ms, wanted) if latency_ms else [float("nan")] * len(wanted)
    return {f"{prefix}p{q}_ms": float(v) for q, v in zip(wanted, found, strict=True)}
