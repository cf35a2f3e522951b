"""Effect of shadow mode and of champion changes on latency, measured at a steady rate.

One run against the running stack: shadow mode is switched on and off in turn, then the champion is
exchanged under the same load. The champion afterwards is the one before.
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

from loadtest.bodies import bodies, load_headers
from services.fraud.candidates import CANDIDATES
from services.fraud.service import SCORER
from services.platform.models.promotion import ModelLifecycle
from services.platform.models.registry import ModelRegistry
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings

_SETTLE_S = 3.0
_BETWEEN_S = 5.0
_CONNECTIONS = 64


@dataclass(frozen=True)
class SwapResult:
    """The measurements. Medians over rounds, because a single stall of the machine is noise.

    Attributes:
        rate: Requests a second.
        requests: Number of requests.
        failures: Number of failed requests.
        shadow_on_p95_ms: Median over rounds of p95 with shadow mode.
        shadow_off_p95_ms: Median over rounds of p95 without shadow mode.
        shadow_ratio: Median over rounds of the ratio of both, because noise changes within minutes.
        changes: Number of champion changes.
        changing_p95_ms: p95 while champions changed.
        worst_second_p95_ms: p95 of the slowest second of that time.
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
    """All answers.

    Attributes:
        at: Start of each request, `perf_counter`.
        ms: Latency of each request.
        failed: Number of failed requests.
    """

    at: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    failed: int = 0

    def p95(self, spans: list[tuple[float, float]]) -> float:
        """95th percentile (ms) of the requests started within some spans of time."""
        at, ms = np.array(self.at), np.array(self.ms)
        within = np.zeros(len(at), dtype=bool)
        for begin, end in spans:
            within |= (at >= begin) & (at < end)
        return float(np.quantile(ms[within], 0.95)) if within.any() else float("nan")


def bench(
    config: Settings, rate: float, seconds: float, rounds: int, step: ProgressCallback
) -> SwapResult:
    """Measure shadow mode and champion changes.

    Args:
        config: Where the stack runs.
        rate: Requests a second.
        seconds: How long shadow mode is on, and off, in each round.
        rounds: Rounds of shadow mode on and off.
        step: Called with (steps done, all).

    Raises:
        ValueError: no other version is registered.
    """
    lifecycle = ModelLifecycle(config, "fraud")
    champion = asyncio.run(lifecycle.champion())
    other_version = _other_registered_version(config, champion)
    answers, stop = _Answers(), threading.Event()
    url = f"{SCORER.url(config)}{SCORER.route}"
    loading = threading.Thread(target=lambda: asyncio.run(_load(url, rate, answers, stop)))
    loading.start()
    try:
        time.sleep(_SETTLE_S)
        total = 2 * rounds + 4
        on, off = _alternate_shadow_mode(
            lifecycle, other_version, seconds, rounds, lambda n: step(n, total)
        )
        begin = perf_counter()
        for number in range(2):
            asyncio.run(lifecycle.promote(other_version, f"version {other_version}", ["bench"], {}))
            time.sleep(_BETWEEN_S)
            step(2 * rounds + 2 * number + 1, total)
            asyncio.run(lifecycle.roll_back("bench"))
            time.sleep(_BETWEEN_S)
            step(2 * rounds + 2 * number + 2, total)
        end = perf_counter()
    finally:
        with suppress(Exception):
            asyncio.run(lifecycle.stop_shadow())
        stop.set()
        loading.join()
    on_ms, off_ms = (np.array([answers.p95([s]) for s in spans]) for spans in (on, off))
    worst = max(answers.p95([(t, t + 1)]) for t in np.arange(begin, end - 1))
    return SwapResult(
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


def _other_registered_version(config: Settings, champion: int | None) -> int:
    registry = ModelRegistry(config)
    versions = [registry.newest_version("fraud", name) for name in sorted(CANDIDATES.all())]
    others = [v for v in versions if v is not None and v != champion]
    if champion is None or not others:
        raise ValueError(
            "a second candidate is needed: `whiteboard train fraud --candidate deepsets`"
        )
    return others[0]


def _alternate_shadow_mode(
    lifecycle: ModelLifecycle,
    version: int,
    seconds: float,
    rounds: int,
    done: Callable[[int], None],
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Spans of time with shadow mode on, and off; the order changes from round to round."""
    on, off = [], []
    for number in range(2 * rounds):
        if number % 4 in (0, 3):
            asyncio.run(lifecycle.start_shadow(version))
            on.append(_measured_span(seconds))
        else:
            asyncio.run(lifecycle.stop_shadow())
            off.append(_measured_span(seconds))
        done(number + 1)
    return on, off


def _measured_span(seconds: float) -> tuple[float, float]:
    """Wait until a change has taken effect, then for `seconds`; returns begin and end."""
    time.sleep(_SETTLE_S)
    begin = perf_counter()
    time.sleep(seconds)
    return begin, perf_counter()


async def _load(url: str, rate: float, answers: _Answers, stop: threading.Event) -> None:
    """Open loop: each request starts at its due time, however long the others take."""
    source = bodies()
    next(source)
    begin, number, running = perf_counter(), 0, set[asyncio.Task[None]]()
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        while not stop.is_set():
            await asyncio.sleep(max(begin + number / rate - perf_counter(), 0.0))
            task = asyncio.create_task(_post(http, url, next(source), answers))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.gather(*running)


async def _post(http: aiohttp.ClientSession, url: str, body: bytes, answers: _Answers) -> None:
    headers = load_headers()
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
