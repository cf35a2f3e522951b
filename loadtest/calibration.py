"""Processor time of each part a request, measured on the running stack, and the knee it predicts.

At two rates, so that a request's time and what a process does without requests come apart. The
knee is where the p95 of the slower of two queues passes the budget: the HTTP service on its one
core, and all that the machine does for a request, Locust and the kernel too, on what its cores have
left for requests.
"""

import os
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from infra.local.supervisor import Supervisor
from loadtest.run import WARM_UP_S, Load, run
from services.platform.capacity.staffing import knee as knee_of
from services.platform.design import Design
from services.platform.progress import ProgressBar
from services.platform.settings import Settings

# Share of the design's load rate: below the knee, where queues do not change the work.
_RATES = (0.4, 1.2)
_SECONDS = 20
_STEP = 1.25
LOCUST, MACHINE = "locust", "machine"
_IDLE_S = 5.0


@dataclass(frozen=True)
class Calibration:
    """What was measured here.

    Attributes:
        us: By process, and of the whole machine, microseconds of a core a request.
        idle_cores: Cores that the machine uses without requests.
        cores: Cores of this machine.
        predicted_knee: Requests a second at which p95 passes the budget, by the parts.
        measured_knee: The same by raising the load; None if it was not asked for.
        ratio: predicted / measured.
    """

    us: dict[str, float]
    idle_cores: float
    cores: int
    predicted_knee: float
    measured_knee: float | None = None
    ratio: float | None = None


def calibration(
    config: Settings, design: Design, budget_ms: float, measure_knee: bool, bar: ProgressBar
) -> Calibration:
    """Measure the parts, predict the knee, and measure it if wanted.

    Raises:
        RuntimeError: Locust failed.
        ValueError: the stack does not run here, or the design has no load scenario.
    """
    if not design.load_rate:
        raise ValueError(f"there is no loadtest/{design.name}.py: nothing to calibrate with")
    with bar("without requests"):
        idle = _idle_cores()
    low, high = (_point(config, design, share, bar) for share in _RATES)
    us = marginal_us(low, high)
    cores = os.cpu_count() or 1
    predicted = predicted_knee(us, design.http.name, cores - idle, budget_ms)
    if not measure_knee:
        return Calibration(us, idle, cores, predicted)
    measured = _measured_knee(config, design, budget_ms, bar)
    return Calibration(us, idle, cores, predicted, measured, predicted / measured)


def predicted_knee(us: Mapping[str, float], http: str, cores: float, budget_ms: float) -> float:
    """The rate at which the p95 of the slower queue passes the budget, a second.

    Args:
        us: By process, and of the machine, microseconds of a core a request.
        http: The process that answers.
        cores: What the machine has for requests.
        budget_ms: Bound of the p95.

    >>> round(predicted_knee({"scorer": 600.0, "machine": 1_400.0}, "scorer", 2, 50.0))
    1369
    """
    alone = knee_of(us[http], 1, budget_ms)
    return min(alone, knee_of(us[MACHINE], cores, budget_ms))


@dataclass(frozen=True)
class Point:
    """A load of `_SECONDS` after its warm-up.

    Attributes:
        requests: Requests that were sent, in the warm-up too.
        cpu_s: By process, processor seconds.
    """

    requests: float
    cpu_s: Mapping[str, float]


def marginal_us(low: Point, high: Point) -> dict[str, float]:
    """By process, microseconds a request, from two loads of the same duration.

    >>> marginal_us(Point(1_000, {"a": 1.1}), Point(2_000, {"a": 1.6}))
    {'a': 500.0}
    """
    more = high.requests - low.requests
    if more <= 0:
        raise ValueError(
            f"{low.requests:.0f} and {high.requests:.0f} requests do not differ: too slow here"
        )
    return {
        name: round(max(high.cpu_s[name] - low.cpu_s[name], 0.0) / more * 1e6, 1)
        for name in low.cpu_s.keys() & high.cpu_s.keys()
    }


def _idle_cores() -> float:
    """Cores that are in use now, measured for `_IDLE_S`."""
    begin, at = _busy_s(), time.monotonic()
    time.sleep(_IDLE_S)
    return (_busy_s() - begin) / (time.monotonic() - at)


def _busy_s() -> float:
    """Processor seconds of the machine so far that were not idle; what a host took counts too."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _point(config: Settings, design: Design, share: float, bar: ProgressBar) -> Point:
    """A load at a share of the design's rate."""
    before = _cpu_seconds(config)
    found = _load(config, design, max(round(design.load_rate * share), 1), bar)
    after = _cpu_seconds(config)
    if not before.keys() & after.keys() - {LOCUST, MACHINE}:
        raise ValueError("no process of the stack runs here: `whiteboard up`")
    # The rate rises evenly within the warm-up.
    requests = found.rate * (_SECONDS + WARM_UP_S / 2)
    return Point(requests, {n: after[n] - before[n] for n in before.keys() & after.keys()})


def _load(config: Settings, design: Design, rate: int, bar: ProgressBar) -> Load:
    with bar(f"{rate} requests/s") as step:
        return run(design.name, rate, _SECONDS, config.home / "load", step)


def _cpu_seconds(config: Settings) -> dict[str, float]:
    """By process, and of the machine, processor seconds so far.

    Locust's are those of this process's children.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {LOCUST: used.ru_utime + used.ru_stime, MACHINE: _busy_s()}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
            found[name] = sum(t.user + t.system for t in times)
    return found


def _measured_knee(config: Settings, design: Design, budget_ms: float, bar: ProgressBar) -> float:
    """The rate at which p95 passes the budget, by interpolation between the last two steps.

    A step that misses it is run again, and the better one counts: a pause of a shared machine is
    no knee.
    """
    rate, last = design.load_rate, (0.0, 0.0)
    while True:
        found = _load(config, design, rate, bar)
        if _misses(found, budget_ms):
            again = _load(config, design, rate, bar)
            found = min(found, again, key=lambda one: (one.failures, one.p95_ms))
        if _misses(found, budget_ms):
            share = (budget_ms - last[1]) / max(found.p95_ms - last[1], 1e-9)
            return last[0] + min(share, 1.0) * (found.rate - last[0])
        last, rate = (found.rate, found.p95_ms), round(rate * _STEP)


def _misses(found: Load, budget_ms: float) -> bool:
    return found.p95_ms >= budget_ms or found.failures > 0
