"""How good the monitors are: every drift, at several strengths, and streams where nothing happens.

A monitor that always cries is as useless as one that never does, and only streams whose truth is
known can tell which one has. What drifts and how is the design's; this counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.drift_monitor import SEQUENTIAL, Monitor
from monitoring.reference import STATISTICS, Reference
from monitoring.statistics.page_hinkley import Sequential

Floats = npt.NDArray[np.float64]

COST = "page_hinkley_cost"
ANY = "any"
DETECTORS = (*STATISTICS, SEQUENTIAL, COST, ANY)
# How much of a drift, 1 being the most that the simulators know.
STRENGTHS = (0.25, 0.5, 1.0)
# A drift's name and its strength.
Injected = tuple[str, float]


@dataclass(frozen=True)
class Stream:
    """Windows of one stream, from the moment something changed, or of a clean one.

    Attributes:
        drift: What changed, empty for nothing. strength: How much, 0..1.
        windows: (N, F) each, the score last. costs: (W,) cost by window, empty where unknown.
        first_costs: Of the windows before, what the costs are held to.
        label_delay: Windows after which a window's cost is known.
    """

    reference: Reference
    drift: str
    strength: float
    windows: Sequence[Floats]
    costs: Floats = field(default_factory=lambda: np.zeros(0))
    first_costs: Floats = field(default_factory=lambda: np.zeros(0))
    label_delay: int = 0


@dataclass(frozen=True)
class Row:
    """One detector on one drift. delay_windows: Mean over the streams it saw, NaN if none."""

    detector: str
    drift: str
    strength: float
    delay_windows: float
    miss_rate: float
    streams: int


@dataclass(frozen=True)
class Scorecard:
    """The table, and how often each detector cries in 1,000 clean windows."""

    rows: list[Row]
    false_alarms_per_1000: dict[str, float]
    clean_windows: int

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def score(streams: Iterator[Stream]) -> Scorecard:
    """Run the monitors over streams and count."""
    first: dict[tuple[str, str, float], list[float]] = {}
    alarms = dict.fromkeys(DETECTORS, 0)
    clean = 0
    for stream in streams:
        seen = alarmed(stream)
        if not stream.drift:
            clean += len(stream.windows)
            for name, where in seen.items():
                alarms[name] += len(where)
            continue
        for name, where in seen.items():
            delay = float(where[0] + 1) if where else float("nan")
            first.setdefault((name, stream.drift, stream.strength), []).append(delay)
    rows = [
        Row(name, drift, strength, _mean(delays), float(np.isnan(delays).mean()), len(delays))
        for (name, drift, strength), delays in first.items()
    ]
    per_1000 = {name: 1_000 * count / max(clean, 1) for name, count in alarms.items()}
    return Scorecard(rows, per_1000, clean)


def alarmed(stream: Stream) -> dict[str, list[int]]:
    """By detector, the windows at which it raised an alarm; labels come late."""
    monitor = Monitor(stream.reference)
    found: dict[str, list[int]] = {name: [] for name in DETECTORS}
    for number, window in enumerate(stream.windows):
        for name in dict.fromkeys(f.detector for f in monitor.check(window).findings):
            found[name].append(number)
    if len(stream.costs):
        on_cost = Sequential.of_cost(list(stream.first_costs))
        risen = [number for number, cost in enumerate(stream.costs) if on_cost.update(float(cost))]
        found[COST] = [number + stream.label_delay for number in risen]
    found[ANY] = sorted({number for where in found.values() for number in where})
    return found


def _mean(delays: list[float]) -> float:
    known = [d for d in delays if not np.isnan(d)]
    return float(np.mean(known)) if known else float("nan")
