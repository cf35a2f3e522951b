"""Scaling of cost with feature views, customers in the store, items in a cart, and replicas.

The first two use a separate Redis through the scorer's reader; the last two start separate scorers
beside the running stack.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import aiohttp
import numpy as np
import orjson
from redis import Redis

from features.online.reader import OnlineReader
from features.online.table import OnlineTable
from features.redis_connection import RedisConnection
from features.spec import SEQ, TIME, State
from infra.local.apps import same_engines, serving
from loadtest.bench import wrk
from loadtest.bodies import bodies, load_headers
from loadtest.stream import own_engines
from services.fraud.features.states import CUSTOMER, STATES
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.types import Floats

VIEWS = (1, 2, 5, 10, 20)
CUSTOMERS = (10_000, 100_000, 1_000_000)
ITEMS = (1, 10, 50, 200)
_READS = 3_000
_REQUESTS = 400
_CHUNK = 20_000
_SCORER = "services.fraud.serving.app:create_app"


@dataclass(frozen=True)
class Point:
    """The cost at one size.

    Attributes:
        size: The size.
        p50: Median, or requests/s for replicas.
        p99: 99th percentile.
        unit: Unit of `p50` and `p99`.
        note: A further figure.
    """

    size: int
    p50: float
    p99: float
    unit: str
    note: str = ""


def bench(config: Settings, seconds: int, bar: ProgressBar) -> dict[str, list[Point]]:
    """All four tables.

    Args:
        config: Where the stack runs.
        seconds: Duration of each measurement with replicas.
        bar: Opens a progress bar with a title.

    Raises:
        FileNotFoundError: wrk is not installed.
        RuntimeError: a server did not start.
    """
    with tempfile.TemporaryDirectory() as folder, own_engines(Path(folder)) as own:
        with bar("feature views") as step:
            views = _views(own, step)
        with bar("customers in the store") as step:
            customers = _customers(own, step)
    with bar("items in a cart") as step:
        items = _items(config, step)
    with bar("replicas") as step:
        replicas = _replicas(config, seconds, step)
    return {"views": views, "customers": customers, "items": items, "replicas": replicas}


def _views(own: Settings, step: ProgressCallback) -> list[Point]:
    """Reads of a request with so many states, one row each."""
    states = [State(f"view{n}", CUSTOMER.keys, CUSTOMER.measures, "") for n in range(max(VIEWS))]
    keys = [(f"c{n}",) for n in range(1_000)]
    with Redis.from_url(own.redis) as redis:
        for state in states:
            OnlineTable(redis, state).store(keys, _rows(state, len(keys)))
    points = []
    for number, count in enumerate(VIEWS, start=1):
        requests = [{"customer_id": f"c{n % len(keys)}"} for n in range(_READS)]
        points.append(_point(count, _reads(own, states[:count], requests), "ms a read"))
        step(number, len(VIEWS))
    return points


def _customers(own: Settings, step: ProgressCallback) -> list[Point]:
    """Reads of a request's five states, with so many customers and their devices in the store."""
    rng = np.random.default_rng(0)
    points, stored = [], 0
    for count in CUSTOMERS:
        with Redis.from_url(own.redis) as redis:
            for begin in range(stored, count, _CHUNK):
                keys = [(f"c{n}",) for n in range(begin, min(begin + _CHUNK, count))]
                OnlineTable(redis, CUSTOMER).store(keys, _rows(CUSTOMER, len(keys)))
                step(begin, max(CUSTOMERS))
            stored = count
            used = int(redis.info("memory")["used_memory"]) / 1e6
        requests = [_parties(int(n)) for n in rng.integers(0, count, _READS)]
        points.append(_point(count, _reads(own, STATES, requests), "ms a read", f"{used:,.0f} MB"))
    step(max(CUSTOMERS), max(CUSTOMERS))
    return points


def _parties(n: int) -> dict[str, str]:
    return {"customer_id": f"c{n}", "merchant_id": f"m{n % 1_000}", "device_id": f"d{n}", "ip": "x"}


def _rows(state: State, count: int) -> Floats:
    rows = np.random.default_rng(1).uniform(0, 1e3, (count, state.width))
    rows[:, SEQ], rows[:, TIME] = np.arange(1, count + 1), 1.6e9
    return rows


def _reads(own: Settings, states: Sequence[State], requests: list[dict[str, str]]) -> Floats:
    """(N,) seconds of reads, one after another."""

    async def read() -> Floats:
        connection = RedisConnection(own.redis)
        reader = OnlineReader(connection, states)
        seconds = []
        for keys in requests:
            begin = perf_counter()
            await reader.read(keys)
            seconds.append(perf_counter() - begin)
        connection.close()
        return np.array(seconds[len(seconds) // 10 :])

    return asyncio.run(read())


def _items(config: Settings, step: ProgressCallback) -> list[Point]:
    """Requests to a scorer of the champion, with so many items in the cart."""
    plain = [orjson.loads(body) for body in bodies(_REQUESTS)]
    with tempfile.TemporaryDirectory() as home:
        environ = {**same_engines(config), "WHITEBOARD_HOME": home}
        with serving({"score": (_SCORER, environ)}) as urls:
            points = []
            for number, count in enumerate(ITEMS, start=1):
                requests = [_with_items(body, count) for body in plain]
                seconds = asyncio.run(_post(f"{urls['score']}/score", requests))
                points.append(_point(count, seconds, "ms a request"))
                step(number, len(ITEMS))
    return points


def _with_items(body: dict[str, object], count: int) -> bytes:
    cart = [{"category": f"category-{n % 40}", "price_minor": 100 + n} for n in range(count)]
    return orjson.dumps({**body, "cart": cart})


async def _post(url: str, requests: list[bytes]) -> Floats:
    headers = load_headers()
    seconds = []
    async with aiohttp.ClientSession() as http:
        for body in requests:
            begin = perf_counter()
            async with http.post(url, data=body, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()
            seconds.append(perf_counter() - begin)
    return np.array(seconds[len(seconds) // 10 :])


def _replicas(config: Settings, seconds: int, step: ProgressCallback) -> list[Point]:
    """So many scorers at once, each with its own client, as behind a load balancer."""
    max_replicas = (os.cpu_count() or 1) + 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(bodies(20_000)))
        # Separate homes: an outbox has one owner.
        apps = {
            f"score{n}": (_SCORER, {**same_engines(config), "WHITEBOARD_HOME": f"{folder}/{n}"})
            for n in range(max_replicas)
        }
        with serving(apps) as urls:
            points = []
            for count in range(1, max_replicas + 1):
                points.append(_load_at_once(list(urls.values())[:count], file, seconds))
                step(count, max_replicas)
            return points


def _load_at_once(urls: list[str], file: Path, seconds: int) -> Point:
    with ThreadPoolExecutor(len(urls)) as pool:
        found = list(pool.map(lambda url: wrk(f"{url}/score", file, seconds), urls))
    total = sum(one["rps"] for one in found)
    worst = max(one["p99_ms"] for one in found)
    return Point(len(urls), total, worst, "requests/s in all; worst p99, ms")


def _point(size: int, seconds: Floats, unit: str, note: str = "") -> Point:
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return Point(size, float(p50), float(p99), unit, note)
