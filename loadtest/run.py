"""Run a Locust scenario headless and read its measurements."""

import csv
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from matplotlib.figure import Figure

from infra.local.engines import environment
from infra.local.supervisor import Supervisor
from services.platform.capacity.knee_search import Knee, Step, find_knee
from services.platform.design import DEFERRABLE_NICE, Design
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings

WARM_UP_S = 5
# Duration of a load at one of several rates.
STEADY_LOAD_S = 20
# Deferrable consumers have caught up once they use less than this share of the cores for a second.
_CAUGHT_UP = 0.15
_CATCH_UP_S = 60


@dataclass(frozen=True)
class Load:
    """The measurements of a run, without the warm-up.

    Attributes:
        rate: Requests a second.
        requests: Number of requests.
        failures: Number of failed requests.
        errors: Number of failures by Locust's message.
        p50_ms: Median latency.
        p95_ms: 95th percentile of latency.
        p99_ms: 99th percentile of latency.
        html: Locust's report.
        plot: Plot of latency over time.
    """

    rate: float
    requests: int
    failures: int
    errors: dict[str, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    html: Path
    plot: Path


def run(design: str, rate: int, seconds: int, folder: Path, step: ProgressCallback) -> Load:
    """Send `rate` requests a second to a design for some seconds, after a warm-up.

    Args:
        design: The design's name.
        rate: Requests a second.
        seconds: Duration without the warm-up.
        folder: Where to write report and plot.
        step: Called with (seconds passed, all).

    Raises:
        RuntimeError: Locust failed; the message quotes the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenario = Path(__file__).parent / f"{design}.py"
    prefix, html = folder / f"{design}-{rate}", folder / f"{design}-{rate}.html"
    command = [
        sys.executable, "-m", "locust", "-f", str(scenario), "--headless", "--only-summary",
        "--users", str(rate), "--spawn-rate", str(max(rate / WARM_UP_S, 1)), "--reset-stats",
        "--run-time", f"{seconds + WARM_UP_S}s", "--stop-timeout", "10", "--csv", str(prefix),
        "--csv-full-history",  # without it, percentiles over time are cumulative
        "--html", str(html), "--exit-code-on-error", "0", "--loglevel", "WARNING",
    ]  # fmt: skip
    log = folder / f"{design}-{rate}.log"
    with log.open("wb") as errors:  # a pipe that is not read would block Locust once it is full
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment()
        )
        _watch(process, seconds + WARM_UP_S, step)
    if process.returncode:
        output = log.read_text(errors="replace")
        raise RuntimeError(f"locust ended with {process.returncode}: {output[-500:]}")
    total = _total(Path(f"{prefix}_stats.csv"))
    plot = _plot(Path(f"{prefix}_stats_history.csv"), folder / f"{design}-{rate}.png", design, rate)
    return Load(
        rate=float(total["Requests/s"]),
        requests=int(total["Request Count"]),
        failures=int(total["Failure Count"]),
        errors=_errors(Path(f"{prefix}_failures.csv")),
        p50_ms=float(total["50%"]),
        p95_ms=float(total["95%"]),
        p99_ms=float(total["99%"]),
        html=html,
        plot=plot,
    )


def steady_load(config: Settings, design: Design, rate: int, bar: ProgressBar) -> Load:
    """A load of `STEADY_LOAD_S`, after its warm-up.

    Raises:
        RuntimeError: Locust failed, or every request did; the message has the most frequent error.
    """
    with bar(f"{rate} requests/s") as step:
        found = run(design.name, rate, STEADY_LOAD_S, config.home / "load", step)
    if found.failures == found.requests:
        worst = max(found.errors, key=found.errors.__getitem__)
        raise RuntimeError(f"every request failed, most of them: {worst}; `whiteboard status`")
    return found


def measured_knee(
    config: Settings, design: Design, begin: int, budget_ms: float, bar: ProgressBar
) -> Knee:
    """The knee of the running stack; each load begins when the stack has caught up.

    Raises:
        RuntimeError: Every request failed, or no rate holds the budget.
    """

    def load(rate: int) -> Step:
        catch_up(config, bar)
        found = steady_load(config, design, rate, bar)
        return Step(rate, found.rate, found.p95_ms, found.failures)

    return find_knee(load, begin, budget_ms)


def resident_mb(config: Settings) -> dict[str, float]:
    """Resident memory of each process of the running stack, MB; empty if containers run it."""
    found = {}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            found[name] = psutil.Process(pid).memory_info().rss / 1e6
    return found


def _watch(process: "subprocess.Popen[bytes]", seconds: int, step: ProgressCallback) -> None:
    begin = time.monotonic()
    try:
        while process.poll() is None:
            step(min(round(time.monotonic() - begin), seconds), seconds)
            time.sleep(0.5)
    except BaseException:
        process.terminate()
        raise
    step(seconds, seconds)


def _total(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    if not rows or not int(rows[0]["Request Count"]):
        raise RuntimeError("locust made no request: is the stack up? `whiteboard up`")
    return rows[0]


def _errors(path: Path) -> dict[str, int]:
    with path.open(newline="") as file:
        return {row["Error"]: int(row["Occurrences"]) for row in csv.DictReader(file)}


def _by_time(history: Path) -> list[dict[str, str]]:
    """Aggregated rows with requests in the last ten seconds."""
    with history.open(newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["Name"] == "Aggregated" and row["95%"] not in ("", "N/A", "0")
        ]


def _plot(history: Path, path: Path, design: str, rate: int) -> Path:
    """Plot latency over time."""
    rows = _by_time(history)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    if rows:
        begin = float(rows[0]["Timestamp"])
        at = [float(row["Timestamp"]) - begin for row in rows]
        for name in ("50%", "95%", "99%"):
            axes.plot(at, [float(row[name]) for row in rows], label=f"p{name[:-1]}")
    axes.axhline(50, color="tab:red", linestyle="--", linewidth=1, label="budget")
    axes.set(xlabel="seconds", ylabel="ms", yscale="log", title=f"{design}, {rate} requests/s")
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, fontsize="small")
    figure.savefig(path, dpi=110)
    return path


def catch_up(config: Settings, bar: ProgressBar) -> None:
    """Wait until deferrable consumers have caught up, a minute at most."""
    with bar("the stack catches up") as step:
        for second in range(_CATCH_UP_S):
            step(second, _CATCH_UP_S)
            before = _deferrable_s(config)
            time.sleep(1.0)
            if _deferrable_s(config) - before < _CAUGHT_UP * (os.cpu_count() or 1):
                return


def _deferrable_s(config: Settings) -> float:
    """Processor seconds of the deferrable consumers so far; of all, if containers run the stack."""
    used = used_by_process(config).values()
    return sum(one.cpu_s for one in used if one.deferrable) if used else busy_s()


@dataclass(frozen=True)
class Used:
    """What a process used so far, with its children.

    Attributes:
        cpu_s: Processor seconds.
        deferrable: Whether it gives way to requests.
    """

    cpu_s: float
    deferrable: bool


def used_by_process(config: Settings) -> dict[str, Used]:
    """By name, what the processes of the running stack used; empty if containers run it."""
    found = {}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
            used = sum(t.user + t.system for t in times)
            found[name] = Used(used, process.nice() >= DEFERRABLE_NICE)
    return found


def cores_in_use(seconds: float) -> float:
    """Cores that are in use now, measured for some seconds."""
    begin, at = busy_s(), time.monotonic()
    time.sleep(seconds)
    return (busy_s() - begin) / (time.monotonic() - at)


def busy_s() -> float:
    """Processor seconds of the machine so far that were not idle; what a host took counts too."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))
