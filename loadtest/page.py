"""What the open walkthrough costs `/score`: p95 at a steady rate, page open and closed in turn.

The page is open as a browser has it open: one reader of its event stream. Rounds alternate, and the
first of a pair alternates too, because noise changes within minutes.

    python -m loadtest.page --rounds 8 --seconds 10
"""

import argparse
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

import psutil

from infra.local.supervisor import Supervisor
from loadtest.run import run
from services.platform.design import WALKTHROUGH
from services.platform.settings import Settings, settings

RATE = 300


@dataclass(frozen=True)
class PageCost:
    """The measurements.

    Attributes:
        rate: Requests a second.
        open_p95_ms: By round, with the page open.
        closed_p95_ms: By round, with the page closed.
        ratio: Median over rounds of open by closed.
        failures: Failed requests.
        page_cpu: Share of a core that the page's process used while open.
    """

    rate: int
    open_p95_ms: list[float]
    closed_p95_ms: list[float]
    ratio: float
    failures: int
    page_cpu: float


def measure(config: Settings, rate: int, seconds: int, rounds: int) -> PageCost:
    """Alternate rounds. RuntimeError: the stack or its page does not run."""
    pid = Supervisor(config).pids().get(WALKTHROUGH.name)
    if pid is None:
        raise RuntimeError("the page does not run: `whiteboard up`")
    p95: dict[bool, list[float]] = {True: [], False: []}
    failures = 0
    cpu: list[float] = []
    for number in range(rounds):
        for is_open in (number % 2 == 0, number % 2 == 1):
            with _page(config, pid, is_open, cpu), TemporaryDirectory() as folder:
                found = run("fraud", rate, seconds, Path(folder), lambda *_: None)
            p95[is_open].append(found.p95_ms)
            failures += found.failures
    ratios = [a / b for a, b in zip(p95[True], p95[False], strict=True)]
    return PageCost(rate, p95[True], p95[False], median(ratios), failures, median(cpu))


@contextmanager
def _page(config: Settings, pid: int, is_open: bool, cpu: list[float]) -> Iterator[None]:
    """Keep the page open if wanted, and note the share of a core that its process used."""
    if not is_open:
        yield
        return
    stop = threading.Event()
    reader = threading.Thread(target=_read, args=(f"{WALKTHROUGH.url(config)}/api/stream", stop))
    reader.start()
    process = psutil.Process(pid)
    before, begin = process.cpu_times(), monotonic()
    try:
        yield
    finally:
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        cpu.append(used / (monotonic() - begin))
        stop.set()
        reader.join(10)


def _read(url: str, stop: threading.Event) -> None:
    with urllib.request.urlopen(url, timeout=10) as stream:
        while not stop.is_set() and stream.readline():
            pass


def main() -> None:
    """Measure the running stack and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    found = measure(settings(), given.rate, given.seconds, given.rounds)
    print(json.dumps(asdict(found), indent=2))


if __name__ == "__main__":
    main()
