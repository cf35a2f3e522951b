"""Processor time of each part a request, measured on the running stack, and the knee it predicts.

At two rates, so that a request's time and what a process does without requests come apart. The
knee is where p95 passes the budget. Three queues estimate it. One has the processor time of the
HTTP service, and leaves out all other waits, so it is too high. The others have the p95 that was
measured at either rate, far below the knee, and take all of it for a queue, so they are too low.
Parts and knee are measured in turn, and the medians are compared.
"""

import math
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadtest.run import (
    STEADY_LOAD_S,
    WARM_UP_S,
    busy_s,
    catch_up,
    cores_in_use,
    measured_knee,
    steady_load,
    used_by_process,
)
from services.platform.capacity.knee_search import STEP
from services.platform.capacity.staffing import knee as knee_of
from services.platform.capacity.staffing import knee_by_latency
from services.platform.design import Design
from services.platform.progress import ProgressBar
from services.platform.settings import Settings

# Share of the design's load rate: below the knee, where queues do not change the work.
_RATES = (0.4, 0.8)
# Locust rounds to whole milliseconds.
_LEAST_MS = 0.5
LOCUST, MACHINE = "locust", "machine"
_IDLE_S = 5.0


@dataclass(frozen=True)
class Round:
    """What one round measured.

    Attributes:
        us: By process, and of the machine less its deferrable consumers, microseconds of a core
            a request.
        p95_ms: Latency at the lower and the higher of the two rates.
        knees: By queue, requests a second at which its p95 passes the budget.
        predicted_knee: The geometric mean of `knees`.
        measured_knee: The same by raising the load, as `whiteboard load --knee` does; None if it
            was not asked for.
    """

    us: dict[str, float]
    p95_ms: tuple[float, float]
    knees: dict[str, float]
    predicted_knee: float
    measured_knee: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What was measured here.

    Attributes:
        us: Of each process, the median of the rounds.
        idle_cores: Cores that the machine uses without requests.
        cores: Cores of this machine.
        predicted_knee: The median of the rounds.
        measured_knee: The median of the rounds; None if it was not asked for.
        ratio: predicted / measured.
        rounds: In turn.
    """

    us: dict[str, float]
    idle_cores: float
    cores: int
    predicted_knee: float
    measured_knee: float | None
    ratio: float | None
    rounds: tuple[Round, ...]


def calibration(
    config: Settings,
    design: Design,
    budget_ms: float,
    measure_knee: bool,
    rounds: int,
    bar: ProgressBar,
) -> Calibration:
    """Measure the parts, predict the knee, and measure it if wanted, in turn.

    The knee of a shared machine changes from minute to minute, so both are measured in the same
    minutes, several times.

    Args:
        rounds: How often; the medians count.

    Raises:
        RuntimeError: Locust failed.
        ValueError: the stack does not run here, or the design has no load scenario.
    """
    if not design.load_rate:
        raise ValueError(f"there is no loadtest/{design.name}.py: nothing to calibrate with")
    catch_up(config, bar)
    with bar("without requests"):
        idle = cores_in_use(_IDLE_S)
    found: list[Round] = []
    for _ in range(rounds):
        last = found[-1].measured_knee if found else None
        # Half a step below the last knee: most later rounds then need two loads.
        begin = round(last / math.sqrt(STEP)) if last else design.load_rate
        found.append(_round(config, design, budget_ms, begin if measure_knee else None, bar))
    return medians(found, idle)


def _round(
    config: Settings, design: Design, budget_ms: float, begin: int | None, bar: ProgressBar
) -> Round:
    """One round; `begin` is the first rate at which the knee is looked for, None: it is not."""
    low, high = (_point(config, design, share, bar) for share in _RATES)
    knees = predicted_knees(design.http.name, (low, high), budget_ms)
    return Round(
        marginal_us(low, high),
        (low.p95_ms, high.p95_ms),
        knees,
        math.prod(knees.values()) ** (1 / len(knees)),
        measured_knee(config, design, begin, budget_ms, bar).rate if begin else None,
    )


def medians(rounds: Sequence[Round], idle_cores: float) -> Calibration:
    """What several rounds say together."""
    names = set.intersection(*(set(one.us) for one in rounds))
    predicted = median(one.predicted_knee for one in rounds)
    known = [one.measured_knee for one in rounds if one.measured_knee is not None]
    measured = median(known) if known else None
    return Calibration(
        {name: median(one.us[name] for one in rounds) for name in sorted(names)},
        idle_cores,
        os.cpu_count() or 1,
        predicted,
        measured,
        predicted / measured if measured else None,
        tuple(rounds),
    )


@dataclass(frozen=True)
class Point:
    """A load after its warm-up.

    Attributes:
        requests: Requests that were sent, in the warm-up too.
        cpu_s: By process, processor seconds.
        rate: Requests a second.
        p95_ms: Latency.
    """

    requests: float
    cpu_s: Mapping[str, float]
    rate: float
    p95_ms: float


def predicted_knees(http: str, points: Sequence[Point], budget_ms: float) -> dict[str, float]:
    """By queue, the rate at which its p95 passes the budget, a second.

    Args:
        http: The process that answers; the last point says what a request takes of a processor.
        points: Loads below the knee, each with a queue of its latency.
        budget_ms: Bound of the p95.

    >>> points = [Point(2_000, {"scorer": 1.6}, 100.0, 5.0)]
    >>> knees = predicted_knees("scorer", points, 50.0)
    >>> {queue: round(rate) for queue, rate in knees.items()}
    {'scorer': 1190, 'latency at 100/s': 639}
    """
    us = 1e6 * points[-1].cpu_s[http] / points[-1].requests
    by_latency = {
        f"latency at {one.rate:.0f}/s": knee_by_latency(one.rate, one.p95_ms, budget_ms)
        for one in points
    }
    return {http: knee_of(us, 1, budget_ms), **by_latency}


def marginal_us(low: Point, high: Point) -> dict[str, float]:
    """By process, microseconds a request, from two loads of the same duration.

    >>> marginal_us(Point(1_000, {"a": 1.1}, 40.0, 3.0), Point(2_000, {"a": 1.6}, 80.0, 4.0))
    {'a': 500.0}
    """
    more = high.requests - low.requests
    if more <= 0:
        raise ValueError(
            f"{low.requests:.0f} and {high.requests:.0f} requests do not differ: too slow here"
        )
    return {
        name: round(max(high.cpu_s[name] - low.cpu_s[name], 0.0) / more * 1e6, 1)
        for name in sorted(low.cpu_s.keys() & high.cpu_s.keys())
    }


def _point(config: Settings, design: Design, share: float, bar: ProgressBar) -> Point:
    """A load at a share of the design's rate."""
    catch_up(config, bar)
    before = _cpu_seconds(config)
    found = steady_load(config, design, max(round(design.load_rate * share), 1), bar)
    after = _cpu_seconds(config)
    if not before.keys() & after.keys() - {LOCUST, MACHINE}:
        raise ValueError("no process of the stack runs here: `whiteboard up`")
    # The rate rises evenly within the warm-up.
    requests = found.rate * (STEADY_LOAD_S + WARM_UP_S / 2)
    used = {name: after[name] - before[name] for name in before.keys() & after.keys()}
    return Point(requests, used, found.rate, max(found.p95_ms, _LEAST_MS))


def _cpu_seconds(config: Settings) -> dict[str, float]:
    """By process, and of the machine less its deferrable consumers, processor seconds so far.

    Locust's are those of this process's children.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {LOCUST: used.ru_utime + used.ru_stime, MACHINE: busy_s()}
    for name, one in used_by_process(config).items():
        found[name] = one.cpu_s
        if one.deferrable:
            found[MACHINE] -= one.cpu_s
    return found
