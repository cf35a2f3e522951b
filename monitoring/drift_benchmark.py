"""How good the monitors are: detection delay, misses and false alarms on streams of known truth.

A monitor that always raises alarms is as useless as one that never does. The designs simulate the
streams, clean ones and every drift at several strengths; this module counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from monitoring.drift_monitor import SCORE_DETECTOR, TAIL_DETECTOR, DriftMonitor
from monitoring.quality import COST_DETECTOR
from monitoring.reference import Reference
from monitoring.statistics import STATISTICS
from monitoring.statistics.page_hinkley import PageHinkley
from services.platform.types import Floats

ANY = "any"
# Strengths of a drift; 1 is the strongest that the simulators know.
STRENGTHS = (0.25, 0.5, 1.0)
# A drift's name and its strength.
InjectedDrift = tuple[str, float]


def detectors() -> tuple[str, ...]:
    """Names of what raises alarms, and `ANY` of them."""
    statistics = (name for name, one in STATISTICS.all().items() if one.alarms)
    return (*statistics, SCORE_DETECTOR, TAIL_DETECTOR, COST_DETECTOR, ANY)


@dataclass(frozen=True)
class BenchmarkStream:
    """Windows of one stream, from the moment that something changed, or of a clean one.

    Attributes:
        reference: What the windows are compared with.
        drift: What changed, empty for nothing.
        strength: How much, 0..1.
        windows: W of them, (N, F) each, the score last.
        costs: (W,) logarithm of the mean cost of a decision by window, empty where unknown.
        first_costs: The same of windows before, the baseline of the cost monitor.
        label_delay: Windows after which a window's cost is known.
        rising: Columns of which extreme values are counted.
    """

    reference: Reference
    drift: str
    strength: float
    windows: Sequence[Floats]
    costs: Floats = field(default_factory=lambda: np.zeros(0))
    first_costs: Floats = field(default_factory=lambda: np.zeros(0))
    label_delay: int = 0
    rising: Sequence[str] = ()


@dataclass(frozen=True)
class DetectorResult:
    """One detector on one drift at one strength.

    Attributes:
        detector: One of `detectors()`.
        drift: Name of the drift.
        strength: 0..1.
        delay_windows: Mean over the streams in which it was detected, 1 for the first window; NaN
            if in none.
        miss_rate: Share of the streams in which it was not detected.
        streams: Number of streams.
    """

    detector: str
    drift: str
    strength: float
    delay_windows: float
    miss_rate: float
    streams: int


@dataclass(frozen=True)
class DriftBenchmark:
    """Results of all detectors.

    Attributes:
        rows: One a detector, drift and strength.
        false_alarms_per_1000: By detector, alarms in 1,000 clean windows.
        clean_windows: Number of clean windows.
    """

    rows: list[DetectorResult]
    false_alarms_per_1000: dict[str, float]
    clean_windows: int

    def as_json(self) -> dict[str, Any]:
        """The JSON of `whiteboard scorecard --json`."""
        return asdict(self)


def run_benchmark(streams: Iterator[BenchmarkStream]) -> DriftBenchmark:
    """Run the monitors over streams and count."""
    first: dict[tuple[str, str, float], list[float]] = {}
    alarms = dict.fromkeys(detectors(), 0)
    clean = 0
    for stream in streams:
        alarmed = alarms_by_detector(stream)
        if not stream.drift:
            clean += len(stream.windows)
            for name, where in alarmed.items():
                alarms[name] += len(where)
            continue
        for name, where in alarmed.items():
            delay = float(where[0] + 1) if where else float("nan")
            first.setdefault((name, stream.drift, stream.strength), []).append(delay)
    rows = [
        DetectorResult(
            detector=name,
            drift=drift,
            strength=strength,
            delay_windows=_mean(delays),
            miss_rate=float(np.isnan(delays).mean()),
            streams=len(delays),
        )
        for (name, drift, strength), delays in first.items()
    ]
    per_1000 = {name: 1_000 * count / max(clean, 1) for name, count in alarms.items()}
    return DriftBenchmark(rows, per_1000, clean)


def alarms_by_detector(stream: BenchmarkStream) -> dict[str, list[int]]:
    """By detector, numbers of the windows at which it raised an alarm; of a cost, once labelled."""
    monitor = DriftMonitor(stream.reference, rising=stream.rising)
    found: dict[str, list[int]] = {name: [] for name in detectors()}
    for number, window in enumerate(stream.windows):
        for name in dict.fromkeys(f.detector for f in monitor.check(window).findings):
            found[name].append(number)
    if len(stream.costs):
        test = PageHinkley.of_cost(list(stream.first_costs))
        risen = [number for number, cost in enumerate(stream.costs) if test.update(float(cost))]
        found[COST_DETECTOR] = [number + stream.label_delay for number in risen]
    found[ANY] = sorted({number for where in found.values() for number in where})
    return found


def _mean(delays: list[float]) -> float:
    known = [d for d in delays if not np.isnan(d)]
    return float(np.mean(known)) if known else float("nan")
