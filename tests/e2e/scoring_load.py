"""Steady transactions by connections that are kept and by one a request; no request is repeated."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import aiohttp
import orjson
from nats.errors import TimeoutError as NatsTimeout

from services.fraud.ingestion.events import DECISION
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

_WAIT_S = 3.0


class ScoringLoad:
    """Clients that send one transaction after the other.

    Attributes:
        answered: The ids of the transactions that were decided.
        failures: What went wrong.
        models: Answers by the model they name.
        slowest_s: The slowest answer.
    """

    def __init__(self, url: str, name: str, clients: int, pause_s: float) -> None:
        self._url, self._name, self._clients, self._pause_s = url, name, clients, pause_s
        self._numbers = count()
        self._stopping = asyncio.Event()
        self.answered: list[str] = []
        self.failures: list[str] = []
        self.models: Counter[str] = Counter()
        self.slowest_s = 0.0

    async def __aenter__(self) -> "ScoringLoad":
        self._kept = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        halves = (True, False)
        self._tasks = [
            asyncio.create_task(self._send(kept)) for kept in halves * (self._clients // 2)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the answers that are on their way."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        await self._kept.close()

    async def _send(self, kept: bool) -> None:
        while not self._stopping.is_set():
            if kept:
                await self._one(self._kept)
            else:
                async with aiohttp.ClientSession() as session:
                    await self._one(session)
            await asyncio.sleep(self._pause_s)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        number = next(self._numbers)
        name = f"{self._name}-{number}"
        body: dict[str, Any] = {
            **EXAMPLE_TRANSACTION,
            "transaction_id": name,
            "customer_id": f"c{number % 500}",
            "event_time": datetime.now(UTC).isoformat(),
        }
        begin = asyncio.get_running_loop().time()
        try:
            async with session.post(f"{self._url}/score", json=body) as answer:
                found = await answer.json()
                if answer.status != 200:
                    raise AssertionError(f"{answer.status}: {found}")
                self.answered.append(name)
                self.models[found["model"]] += 1
        except (aiohttp.ClientError, TimeoutError, OSError, AssertionError) as error:
            self.failures.append(f"{name} {error!r}")
        self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - begin)


async def decided(config: Settings, name: str) -> Counter[str]:
    """How often the stream has a decision on each transaction of a load."""
    found: Counter[str] = Counter()
    async for data in decisions(config):
        transaction = orjson.loads(data)["transaction"]["transaction_id"]
        if transaction.startswith(f"{name}-"):
            found[transaction] += 1
    return found


async def decisions(config: Settings) -> AsyncIterator[bytes]:
    """The stream's decisions, until none comes for a while."""
    nc = await connect(config, "test")
    try:
        messages = await nc.jetstream().subscribe(f"{DECISION}.>", ordered_consumer=True)
        while True:
            try:
                yield (await messages.next_msg(_WAIT_S)).data
            except NatsTimeout:
                return
    finally:
        await nc.close()
