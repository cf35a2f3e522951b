"""Read histograms off a `/metrics` page, and quantiles of what was added between two readings."""

import urllib.request
from collections.abc import Mapping

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

Buckets = Mapping[float, float]


def buckets(url: str, name: str, labels: Mapping[str, str] | None = None) -> Buckets:
    """A histogram as it stands: upper bound -> count. OSError if nobody answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    wanted = (labels or {}).items()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket" and wanted <= sample.labels.items()
    }


def quantile(before: Buckets, after: Buckets, q: float) -> float:
    """Quantile of what was observed between two readings, interpolated in its bucket.

    NaN if nothing was observed.
    """
    bounds = sorted(after)
    counts = np.array([after[b] - before.get(b, 0.0) for b in bounds])
    if not len(counts) or counts[-1] <= 0:
        return float("nan")
    rank = q * counts[-1]
    i = int(np.searchsorted(counts, rank))
    low = bounds[i - 1] if i else 0.0
    below = counts[i - 1] if i else 0.0
    high = bounds[i] if np.isfinite(bounds[i]) else low
    share = (rank - below) / max(counts[i] - below, 1e-9)
    return float(low + (high - low) * share)
