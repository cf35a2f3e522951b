"""Whether shadow mode and changes of champion show in the answers: measured at a steady rate.

One run against the running stack: shadow mode goes on and off in turn, then champions are exchanged
under the same load. Who was champion before is champion after.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

import aiohttp
import numpy as np

from loadtest.bodies import bodies
from services.fraud.candidates import CANDIDATES
from services.platform.models.promotion import Succession
from services.platform.models.registry import Registry
from services.platform.progress import Step
from services.platform.runtime.http import SYNTHETIC
from services.platform.settings import Settings

_SETTLE_S = 3.0
_BETWEEN_S = 5.0
_CONNECTIONS = 64


@dataclass(frozen=True)
class Swaps:
    """What was measured.

    shadow_on_p95_ms, shadow_off_p95_ms: Medians over rounds, for one stall of the machine is not
    shadow mode's. shadow_ratio: Median of the rounds' ratios: a machine's noise changes within a
    minute, so what is compared lies side by side.
    """

    rate: float
    requests: int
    failures: int
    shadow_on_p95_ms: float
    shadow_off_p95_ms: float
    shadow_ratio: float
    changes: int
    changing_p95_ms: float
    worst_second_p95_ms: float


@dataclass
class _Answers:
    """Every answer: when it was asked for, how long it took, and whether it failed."""

    at: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    failed: int = 0

    def p95(self, spans: list[tuple[float, float]]) -> float:
        """Of the requests asked for within some spans of time."""
        at, ms = np.array(self.at), np.array(self.ms)
        within = np.zeros(len(at), dtype=bool)
        for begin, end in spans:
            within |= (at >= begin) & (at < end)
        return float(np.quantile(ms[within], 0.95)) if within.any() else float("nan")


def bench(config: Settings, rate: float, seconds: float, rounds: int, step: Step) -> Swaps:
    """Measure both.

    Args:
        seconds: How long shadow mode is on, and off, in each of `rounds` rounds.

    Raises:
        ValueError: there is no other version to put in the champion's place.
    """
    succession = Succession(config, "fraud")
    champion = succession.champion()
    other = _other(config, champion)
    answers, stop = _Answers(), threading.Event()
    loading = threading.Thread(
        target=lambda: asyncio.run(_load(f"{config.scorer}/score", rate, answers, stop))
    )
    loading.start()
    try:
        time.sleep(_SETTLE_S)
        of = 2 * rounds + 4
        on, off = _shadow(succession, other, seconds, rounds, lambda n: step(n, of))
        begin = perf_counter()
        for number in range(2):
            asyncio.run(succession.promote(other, f"version {other}", ["bench"], {}))
            time.sleep(_BETWEEN_S)
            step(2 * rounds + 2 * number + 1, of)
            asyncio.run(succession.roll_back("bench"))
            time.sleep(_BETWEEN_S)
            step(2 * rounds + 2 * number + 2, of)
        end = perf_counter()
    finally:
        with suppress(Exception):
            asyncio.run(succession.withdraw())
        stop.set()
        loading.join()
    on_ms, off_ms = (np.array([answers.p95([s]) for s in spans]) for spans in (on, off))
    worst = max(answers.p95([(t, t + 1)]) for t in np.arange(begin, end - 1))
    return Swaps(
        rate=len(answers.at) / (answers.at[-1] - answers.at[0]),
        requests=len(answers.at),
        failures=answers.failed,
        shadow_on_p95_ms=float(np.median(on_ms)),
        shadow_off_p95_ms=float(np.median(off_ms)),
        shadow_ratio=float(np.median(on_ms / off_ms)),
        changes=4,
        changing_p95_ms=answers.p95([(begin, end)]),
        worst_second_p95_ms=worst,
    )


def _other(config: Settings, champion: int | None) -> int:
    registry = Registry(config)
    versions = [registry.newest("fraud", name) for name in sorted(CANDIDATES.all())]
    others = [v for v in versions if v is not None and v != champion]
    if champion is None or not others:
        raise ValueError(
            "another candidate has to be registered: `whiteboard train fraud --candidate deepsets`"
        )
    return others[0]


def _shadow(
    succession: Succession, version: int, seconds: float, rounds: int, done: Callable[[int], None]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Spans of time with shadow mode on, and off: which is first changes from round to round."""
    on, off = [], []
    for number in range(2 * rounds):
        if number % 4 in (0, 3):
            asyncio.run(succession.challenge(version))
            on.append(_span(seconds))
        else:
            asyncio.run(succession.withdraw())
            off.append(_span(seconds))
        done(number + 1)
    return on, off


def _span(seconds: float) -> tuple[float, float]:
    """Wait until a change has reached everybody, then for so long."""
    time.sleep(_SETTLE_S)
    begin = perf_counter()
    time.sleep(seconds)
    return begin, perf_counter()


async def _load(url: str, rate: float, answers: _Answers, stop: threading.Event) -> None:
    """An open loop: each request at its own moment, however long the others take."""
    source = bodies()
    next(source)
    begin, number, running = perf_counter(), 0, set[asyncio.Task[None]]()
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        while not stop.is_set():
            await asyncio.sleep(max(begin + number / rate - perf_counter(), 0.0))
            task = asyncio.create_task(_ask(http, url, next(source), answers))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.gather(*running)


async def _ask(http: aiohttp.ClientSession, url: str, body: bytes, answers: _Answers) -> None:
    headers = {"Content-Type": "application/json", **SYNTHETIC}
    begin = perf_counter()
    try:
        async with http.post(url, data=body, headers=headers) as answer:
            await answer.read()
            failed = answer.status != 200
    except (aiohttp.ClientError, TimeoutError):
        failed = True
    answers.at.append(begin)
    answers.ms.append((perf_counter() - begin) * 1e3)
    answers.failed += failed
