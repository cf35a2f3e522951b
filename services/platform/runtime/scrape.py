"""Histograms read from a `/metrics` page, and quantiles of the observations between two reads."""

import urllib.request
from collections.abc import Mapping

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

# Upper bound -> cumulative count.
Buckets = Mapping[float, float]


def read_buckets(url: str, name: str, labels: Mapping[str, str] | None = None) -> Buckets:
    """The present state of a histogram. OSError if the service does not answer."""
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
    """Quantile of the observations between two reads, interpolated within its bucket.

    NaN without observations.

    >>> quantile({}, {1.0: 0.0, 2.0: 10.0, float("inf"): 10.0}, 0.5)
    1.5
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
