"""A clean set of streams for each test, and workers as processes that can be killed."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ServerError
from redis import Redis

from infra.local.engines import environment
from services.cv_inspection.simulator.bootstrap import make_streams as make_cv_streams
from services.fraud.ingestion.events import (
    LABEL,
    TX,
    Event,
    LabelEvent,
    subject,
)
from services.fraud.simulator.bootstrap import create_streams
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import unacknowledged
from tests.streams import TIMEOUT_S, delete_streams


@pytest.fixture
async def nc(config: Settings) -> AsyncIterator[Client]:
    """A connection, with empty streams, an empty store and an empty lake."""
    client = await connect(config, "test")
    js = client.jetstream()
    await delete_streams(config, js)
    await _made_streams(config, js)
    with Redis.from_url(config.redis) as redis:
        empty(redis)
    for copy in (config.home / "models").glob("*.onnx"):
        copy.unlink()
    for bucket in (config.bucket, config.inbox, config.results):
        Lake(config, bucket).remove([""])
    yield client
    await client.close()


async def _made_streams(config: Settings, js: JetStreamContext) -> None:
    """Make the designs' streams; a directory that is still being removed fails at first."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with suppress(ServerError):
                await create_streams(js, last_seq=0)
                await make_cv_streams(config)
                return
            await asyncio.sleep(0.1)


def empty(redis: Redis) -> None:
    """Delete every key: no account may FLUSHDB."""
    if keys := list(redis.scan_iter(count=1000)):
        redis.delete(*keys)


Worker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def worker(config: Settings) -> Iterator[Worker]:
    """Starts a design's processes; ends those that still run."""
    running: list[subprocess.Popen[bytes]] = []
    log = (config.home / "workers.log").open("ab")

    def begin(
        design: str, process: str, *arguments: str, port: int = 0
    ) -> "subprocess.Popen[bytes]":
        where = ("--port", str(port)) if port else ()
        command = [
            sys.executable,
            "-m",
            "services.platform.run",
            *where,
            design,
            process,
            *arguments,
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        running.append(process)
        return process

    yield begin
    for process in running:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(10)
    log.close()


async def publish(nc: Client, events: list[Event], shards: int) -> list[int]:
    """Publish events in order. Returns their sequences."""
    js = nc.jetstream()
    acks = []
    for event in events:
        prefix = LABEL if isinstance(event, LabelEvent) else TX
        where = subject(prefix, event, shards)
        acks.append(await js.publish_async(where, event.model_dump_json().encode()))
    return [(await ack).seq for ack in acks]


async def until(done: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds. `done` may be a coroutine function."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        value = done()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError("it did not come to hold")
        await asyncio.sleep(0.05)


async def lag(nc: Client, stream: str, durable: str) -> int:
    """What a durable has not acknowledged; 1 while it does not exist."""
    try:
        return await unacknowledged(nc.jetstream(), stream, durable)
    except NotFoundError:
        return 1
