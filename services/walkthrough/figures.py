"""Live figures from the newest readings of a source."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite

from services.platform.diagram import Measure
from services.platform.runtime.scrape import Buckets, quantile
from services.walkthrough.sources import Scrape

# A rate is taken over a few readings, so that it does not jump; a percentile needs more answers.
RATE_READINGS, QUANTILE_READINGS = 4, 30
_P95 = 0.95


def value(measure: Measure, readings: Sequence[Scrape]) -> float | None:
    """A figure, or None where the source does not tell, or tells an infinite one.

    Args:
        readings: Of its source, oldest first.
    """
    answered = [one for one in readings if one.state == "running"]
    if not answered or answered[-1] is not readings[-1]:
        return None
    if measure.kind == "gauge":
        found = _sum(measure, answered[-1])
    elif measure.kind == "rate":
        found = _rate(measure, answered[-RATE_READINGS:])
    else:
        found = _p95(measure, answered[-QUANTILE_READINGS:])
    return found * measure.scale if found is not None and isfinite(found) else None


def means(metric: str, label: str, readings: Sequence[Scrape]) -> dict[str, float]:
    """Mean of a histogram's observations among the readings, by one of its labels.

    In order of its series; those without an observation are left out. A counter that fell began
    again at 0.

    Args:
        readings: Of its source, oldest first.
    """
    answered = [one for one in readings if one.state == "running"]
    if len(answered) < 2:
        return {}
    series = answered[-1].samples.get(f"{metric}_count", ())
    found = {}
    for name in (labels[label] for labels, _ in series):
        totals, counts = (
            _growth(Measure(name, "", f"{metric}_{part}", labels={label: name}), answered)
            for part in ("sum", "count")
        )
        if counts:
            found[name] = totals / counts
    return found


def _rate(measure: Measure, readings: Sequence[Scrape]) -> float | None:
    """Growth a second. A counter that fell began again at 0."""
    if len(readings) < 2:
        return None
    return _growth(measure, readings) / (readings[-1].at - readings[0].at)


def _growth(measure: Measure, readings: Sequence[Scrape]) -> float:
    sums = [_sum(measure, one) or 0.0 for one in readings]
    return sum(b - a if b >= a else b for a, b in pairwise(sums))


def _p95(measure: Measure, readings: Sequence[Scrape]) -> float | None:
    after = _buckets(measure, readings[-1])
    before = next((b for one in readings if (b := _buckets(measure, one))), {})
    return quantile(before, after, _P95) if after else float("nan")


def _sum(measure: Measure, reading: Scrape) -> float | None:
    values = [v for labels, v in reading.samples.get(measure.metric, ()) if _fits(measure, labels)]
    return sum(values) if values else None


def _buckets(measure: Measure, reading: Scrape) -> Buckets:
    found: dict[float, float] = {}
    for labels, count in reading.samples.get(f"{measure.metric}_bucket", ()):
        if _fits(measure, labels):
            bound = float(labels["le"])
            found[bound] = found.get(bound, 0.0) + count
    return found


def _fits(measure: Measure, labels: Mapping[str, str]) -> bool:
    return all(
        labels.get(name) != wanted[1:] if wanted.startswith("!") else labels.get(name) == wanted
        for name, wanted in measure.labels.items()
    )
