"""One feature worker on engines of its own: events a second, and how soon a state can be read.

The running stack is left alone: a benchmark's purchases are no part of its world.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from prometheus_client.parser import text_string_to_metric_families

from infra.local.engines import engines, environment, free_port
from services.fraud.ingestion.events import LABEL, TX, TransactionEvent, subject
from services.fraud.simulator.bootstrap import make_streams
from services.fraud.simulator.tables import label, merged, transaction
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import Bar
from services.platform.runtime.scrape import buckets, quantile
from services.platform.settings import Settings
from services.platform.streaming.consumer import connect

_SEED, _DAY = 7, 30
_AT_ONCE = 1_000
_TICK_S = 0.01
# To be asked for its metrics costs the worker time.
_LOOK_S = 0.5
_FRESHNESS = "freshness_seconds"

Message = tuple[str, bytes]


@dataclass(frozen=True)
class Streamed:
    """What was measured. freshness: From the stream taking an event to its state readable."""

    events: int
    events_per_s: float
    rate: float
    freshness_p50_ms: float
    freshness_p99_ms: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def bench(events: int, rate: int, seconds: int, bar: Bar) -> Streamed:
    """Let a worker drain `events` events, then give it `rate` a second.

    Raises:
        RuntimeError: an engine or the worker does not start.
    """
    with tempfile.TemporaryDirectory() as folder, own_engines(Path(folder)) as config:
        return asyncio.run(_measure(config, events, rate, seconds, bar))


async def _measure(config: Settings, events: int, rate: int, seconds: int, bar: Bar) -> Streamed:
    nc = await connect(config, "bench", patience_s=20.0)
    try:
        await make_streams(nc.jetstream(), 0)
        source = _messages(config.shards)
        with bar("making events") as step:
            drained = _take(source, events, step)
            paced = _take(source, rate * seconds, lambda *_: None)
        with bar("publishing them") as step:
            await _publish(nc, drained, step)
        with _worker(config) as worker:
            with bar("one worker folds them") as step:
                per_s = await _drain(config, events, worker, step)
            before = buckets(_metrics(config), _FRESHNESS)
            with bar(f"{rate} events/s") as step:
                took = await _pace(nc, paced, rate, step)
            after = buckets(_metrics(config), _FRESHNESS)
    finally:
        await nc.close()
    return Streamed(
        events=events,
        events_per_s=per_s,
        rate=len(paced) / took,
        freshness_p50_ms=quantile(before, after, 0.5) * 1e3,
        freshness_p99_ms=quantile(before, after, 0.99) * 1e3,
    )


def _messages(shards: int) -> Iterator[Message]:
    """Simulated transactions and labels in order of time, as they are published."""
    traffic, number = Traffic(_SEED), _DAY
    while True:
        for _, day, index, is_label in merged(traffic, number):
            if is_label:
                told = label(day, index)
                yield subject(LABEL, told, shards), told.model_dump_json().encode()
            else:
                paid = TransactionEvent(**transaction(day, index).model_dump())
                yield subject(TX, paid, shards), paid.model_dump_json().encode()
        number += 1


def _take(source: Iterator[Message], count: int, step: Any) -> list[Message]:
    taken = []
    for number in range(count):
        taken.append(next(source))
        if number % _AT_ONCE == 0:
            step(number, count)
    step(count, count)
    return taken


async def _publish(nc: Client, messages: list[Message], step: Any) -> None:
    js = nc.jetstream(publish_async_max_pending=2 * _AT_ONCE)
    for begin in range(0, len(messages), _AT_ONCE):
        acks = [await js.publish_async(*m) for m in messages[begin : begin + _AT_ONCE]]
        await asyncio.gather(*acks)
        step(begin + len(acks), len(messages))


async def _drain(
    config: Settings, events: int, worker: "subprocess.Popen[bytes]", step: Any
) -> float:
    """Events/s from the first batch seen done to the last. RuntimeError if the worker ends."""
    first_at, first = 0.0, 0
    while True:
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended: {_log_of(config).read_text()[-500:]}")
        done, now = _folded(_metrics(config)), time.perf_counter()
        step(done, events)
        if done and not first:
            first_at, first = now, done
        if done >= events:
            return (done - first) / max(now - first_at, 1e-9)
        await asyncio.sleep(_LOOK_S)


async def _pace(nc: Client, messages: list[Message], rate: int, step: Any) -> float:
    """Publish at a rate; seconds it took."""
    js = nc.jetstream(publish_async_max_pending=2 * _AT_ONCE)
    begin, sent = time.perf_counter(), 0
    while sent < len(messages):
        due = min(int((time.perf_counter() - begin) * rate) + 1, len(messages))
        for message in messages[sent:due]:
            await js.publish_async(*message)
        sent = due
        step(sent, len(messages))
        await asyncio.sleep(_TICK_S)
    await js.publish_async_completed()
    took = time.perf_counter() - begin
    await asyncio.sleep(0.5)
    return took


def _metrics(config: Settings) -> str:
    return f"http://127.0.0.1:{config.metrics_port}/metrics"


def _log_of(config: Settings) -> Path:
    return config.home / "worker.log"


def _folded(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            families = text_string_to_metric_families(answer.read().decode())
    except OSError:
        return 0
    return sum(int(s.value) for f in families for s in f.samples if s.name == "events_total")


@contextmanager
def own_engines(home: Path) -> Iterator[Settings]:
    """NATS and Redis of the benchmark's own."""
    config = Settings(
        home=home,
        nats_url="",
        redis_url="",
        s3_endpoint="http://127.0.0.1:9",  # none: the worker needs no store
        nats_port=free_port(),
        nats_http_port=free_port(),
        redis_port=free_port(),
        metrics_port=free_port(),
    )
    with (home / "engines.log").open("wb") as log:
        running = [
            subprocess.Popen(p.command, stdout=log, stderr=log, env=environment())
            for p in engines(config)
        ]
    try:
        yield config
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


@contextmanager
def _worker(config: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    changed = {
        "WHITEBOARD_HOME": str(config.home),
        "WHITEBOARD_NATS_URL": config.nats,
        "WHITEBOARD_REDIS_URL": config.redis,
        "WHITEBOARD_METRICS_PORT": str(config.metrics_port),
    }
    command = (sys.executable, "-m", "services.fraud.features.worker")
    with _log_of(config).open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**environment(), **changed})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
