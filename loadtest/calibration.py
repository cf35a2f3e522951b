"""Processor time of each part a request, measured on the running stack, and the knee it predicts.

At two rates, so that what a process does without requests falls out. The knee is where the p95 of
the slower of two queues passes the budget: the HTTP service on its one core, and all processes,
Locust too, on the machine's cores.
"""

import os
import resource
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

# Share of the design's load rate; well below the knee, where queues do not change the work.
_RATES = (0.4, 0.8)
_SECONDS = 15
_STEP = 1.25
LOCUST = "locust"


@dataclass(frozen=True)
class Calibration:
    """What was measured here.

    Attributes:
        us: By process, microseconds of a core a request.
        cores: Cores of this machine.
        predicted_knee: Requests a second at which p95 passes the budget, by the parts.
        measured_knee: The same by raising the load; None if it was not asked for.
        ratio: predicted / measured.
    """

    us: dict[str, float]
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
    points = [_point(config, design, share, bar) for share in _RATES]
    us = marginal_us(*points)
    cores = os.cpu_count() or 1
    predicted = predicted_knee(us, design.http.name, cores, budget_ms)
    if not measure_knee:
        return Calibration(us, cores, predicted)
    measured = _measured_knee(config, design, budget_ms, bar)
    return Calibration(us, cores, predicted, measured, predicted / measured)


def predicted_knee(us: Mapping[str, float], http: str, cores: int, budget_ms: float) -> float:
    """The rate at which the p95 of the slower queue passes the budget, a second.

    >>> round(predicted_knee({"scorer": 600.0, "nats": 300.0, "locust": 500.0}, "scorer", 2, 50.0))
    1369
    """
    alone = knee_of(us[http], 1, budget_ms)
    return min(alone, knee_of(sum(us.values()), cores, budget_ms))


def marginal_us(
    low: tuple[float, Mapping[str, float]], high: tuple[float, Mapping[str, float]]
) -> dict[str, float]:
    """By process, microseconds a request, from processor seconds a second at two rates.

    >>> marginal_us((100.0, {"a": 0.11}), (200.0, {"a": 0.16}))
    {'a': 500.0}
    """
    (rate, used), (more_rate, more_used) = low, high
    if more_rate <= rate:
        raise ValueError(f"the rates {rate:.0f} and {more_rate:.0f}/s do not differ: too slow here")
    return {
        name: round(max((more_used[name] - used[name]) / (more_rate - rate), 0.0) * 1e6, 1)
        for name in used.keys() & more_used.keys()
    }


def _point(
    config: Settings, design: Design, share: float, bar: ProgressBar
) -> tuple[float, dict[str, float]]:
    """(requests a second, processor seconds a second by process) at a share of the load rate."""
    before = _cpu_seconds(config)
    found = _load(config, design, max(round(design.load_rate * share), 1), bar)
    after = _cpu_seconds(config)
    if not before.keys() & after.keys() - {LOCUST}:
        raise ValueError("no process of the stack runs here: `whiteboard up`")
    seconds = _SECONDS + WARM_UP_S
    return found.rate, {n: (after[n] - before[n]) / seconds for n in before.keys() & after.keys()}


def _load(config: Settings, design: Design, rate: int, bar: ProgressBar) -> Load:
    with bar(f"{rate} requests/s") as step:
        return run(design.name, rate, _SECONDS, config.home / "load", step)


def _cpu_seconds(config: Settings) -> dict[str, float]:
    """By process, processor seconds so far; Locust's are those of this process's children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {LOCUST: used.ru_utime + used.ru_stime}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
            found[name] = sum(t.user + t.system for t in times)
    return found


def _measured_knee(config: Settings, design: Design, budget_ms: float, bar: ProgressBar) -> float:
    """The rate at which p95 passes the budget, by interpolation between the last two steps."""
    rate, last = design.load_rate, (0.0, 0.0)
    while True:
        found = _load(config, design, rate, bar)
        if found.p95_ms >= budget_ms or found.failures:
            share = (budget_ms - last[1]) / max(found.p95_ms - last[1], 1e-9)
            return last[0] + min(share, 1.0) * (found.rate - last[0])
        last, rate = (found.rate, found.p95_ms), round(rate * _STEP)
