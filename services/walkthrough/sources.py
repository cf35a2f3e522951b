"""Where the figures come from: each process's metrics, and what the engines tell about themselves.

Each source becomes the same thing, samples by metric name, so that a figure needs not know which
kind of source it has.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from urllib.parse import urlsplit

import aiohttp
import orjson
from redis.exceptions import RedisError

from features.cluster.clients import open_link
from features.redis_connection import RedisConnection
from services.platform.design import HttpApp, Process
from services.platform.settings import Settings

# A process that does not answer in this time hangs, or is too busy to.
TIMEOUT_S = 0.8
Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]
Read = Callable[[], Awaitable[Samples]]

_LINE = re.compile(r"^([a-z_]+)(?:\{([^}]*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SUFFIXES = ("", "_bucket", "_count", "_sum")
# A process's gauge: how many share its work.
_INSTANCES = "sharing_processes"
_LAG = "consumer_lag_events"


@dataclass(frozen=True)
class Scrape:
    """One reading of a source.

    Attributes:
        at: When, seconds of the monotonic clock.
        state: running, hanging (no answer in time), or down.
        samples: By metric name, labels and values.
    """

    at: float
    state: str
    samples: Samples = field(default_factory=dict)


def parse_metrics(text: str, wanted: frozenset[str]) -> Samples:
    r"""Samples of some metrics of a Prometheus page; prometheus_client's parser takes far longer.

    >>> parse_metrics('# HELP a b\na_total{x="1"} 2.0\nb 3\n', frozenset({"a_total"}))
    {'a_total': [({'x': '1'}, 2.0)]}
    """
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in wanted and (match := _LINE.match(line)):
            labels = dict(_LABEL.findall(match[2] or ""))
            found.setdefault(name, []).append((labels, float(match[3])))
    return found


def together(pages: Sequence[Samples]) -> Samples:
    """The samples of several processes that share one's work.

    Each has the same backlog before it: the largest counts, not the sum.

    >>> pages = [{_LAG: [({}, 3.0)], "a": [({}, 1.0)]}, {_LAG: [({}, 5.0)], "a": [({}, 1.0)]}]
    >>> together(pages)
    {'consumer_lag_events': [({}, 5.0)], 'a': [({}, 1.0), ({}, 1.0)]}
    """
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for page in pages:
        for name, samples in page.items():
            found.setdefault(name, []).extend(samples)
    if len(pages) > 1 and _LAG in found:
        found[_LAG] = [max(found[_LAG], key=itemgetter(1))]
    return found


class Sources:
    """The sources of an installation."""

    def __init__(
        self, config: Settings, processes: Iterable[HttpApp | Process], metrics: Iterable[str]
    ) -> None:
        """Open nothing yet.

        Args:
            processes: Whose metrics are read.
            metrics: Names of the metrics that count.
        """
        self._config = config
        self._wanted = frozenset(m + suffix for m in (*metrics, _INSTANCES) for suffix in _SUFFIXES)
        self._redis = open_link(config)
        self._http: aiohttp.ClientSession | None = None
        self._reads: dict[str, Read] = {p.name: partial(self._process, p) for p in processes}
        engines = {"nats": self._nats, "redis": self._redis_info, "seaweedfs": self._s3}
        self._reads |= engines

    @property
    def names(self) -> list[str]:
        """Every source."""
        return list(self._reads)

    async def read(self) -> dict[str, Scrape]:
        """Read every source once, all at the same time."""
        scrapes = await asyncio.gather(*(self._one(read) for read in self._reads.values()))
        return dict(zip(self._reads, scrapes, strict=True))

    async def close(self) -> None:
        """Close what was opened; a later `read` opens it again."""
        self._redis.close()
        # Taken first: a read that begins meanwhile opens a session of its own.
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            self._http = aiohttp.ClientSession(timeout=timeout)
        return self._http

    async def _one(self, read: Read) -> Scrape:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                samples = await read()
        except TimeoutError:
            return Scrape(time.monotonic(), "hanging")
        except (aiohttp.ClientError, RedisError, OSError, ValueError):
            return Scrape(time.monotonic(), "down")
        return Scrape(time.monotonic(), "running", samples)

    async def _process(self, process: HttpApp | Process) -> Samples:
        """A process's samples; where several share its work, those of all together."""
        if isinstance(process, HttpApp):
            return await self._page(f"{process.url(self._config)}/metrics")
        first = await self._page(process.metrics_url(self._config))
        count = round(max((value for _, value in first.get(_INSTANCES, ())), default=1))
        urls = [process.metrics_url(self._config, number) for number in range(1, count)]
        return together([first, *await asyncio.gather(*map(self._page, urls))])

    async def _page(self, url: str) -> Samples:
        return parse_metrics((await self._get(url)).decode(), self._wanted)

    async def _nats(self) -> Samples:
        config = self._config
        # One of a cluster's servers knows the streams that it has a copy of.
        host = urlsplit(f"//{config.nats_host.split(',')[0]}").hostname or config.host
        page = await self._get(f"http://{host}:{config.nats_http_port}/jsz?streams=1")
        streams = [
            stream
            for account in orjson.loads(page).get("account_details") or ()
            for stream in account.get("stream_detail") or ()
        ]
        states = [({"stream": s["name"]}, s["state"]) for s in streams]
        return {
            "stream_last_seq": [(labels, float(s["last_seq"])) for labels, s in states],
            "stream_messages": [(labels, float(s["messages"])) for labels, s in states],
        }

    async def _redis_info(self) -> Samples:
        """Figures of Redis, of a cluster's nodes together."""
        await self._redis.open()
        commands, memory = 0.0, 0.0
        for node in self._redis.nodes:
            found = await _redis_figures(node)
            commands += float(found["total_commands_processed"])
            memory += float(found["used_memory"])
        return {
            "redis_commands_total": [({}, commands)],
            "redis_memory_bytes": [({}, memory)],
        }

    async def _s3(self) -> Samples:
        begin = time.perf_counter()
        async with self._session().get(self._config.s3) as answer:
            await answer.read()  # refused without a signature, which is an answer
        return {"s3_answer_seconds": [({}, time.perf_counter() - begin)]}

    async def _get(self, url: str) -> bytes:
        async with self._session().get(url) as answer:
            answer.raise_for_status()
            return await answer.read()


async def _redis_figures(node: RedisConnection) -> dict[str, str]:
    [stats, memory] = await node.execute([("INFO", "stats"), ("INFO", "memory")], TIMEOUT_S)
    lines = (stats + memory).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
