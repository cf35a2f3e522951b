"""Benchmark of one feature worker on separate engines: events a second, and feature freshness.

The running stack is not used: the benchmark's transactions must not reach its state.
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
from services.fraud.simulator.bootstrap import create_streams
from services.fraud.simulator.tables import events_of_day, label, transaction
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressBar
from services.platform.runtime.scrape import quantile, read_buckets
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

_SEED, _DAY = 7, 30
_BATCH = 1_000
_TICK_S = 0.01
# Not more often: reading its metrics costs the worker time.
_POLL_S = 0.5
_FRESHNESS = "freshness_seconds"

Publication = tuple[str, bytes]


@dataclass(frozen=True)
class StreamResult:
    """The measurements. Freshness is the time from the stream's timestamp to a readable state.

    Attributes:
        events: Number of events drained.
        events_per_s: Rate of draining.
        rate: Events a second of the paced part.
        freshness_p50_ms: Median freshness of the paced part.
        freshness_p99_ms: 99th percentile of the freshness of the paced part.
    """

    events: int
    events_per_s: float
    rate: float
    freshness_p50_ms: float
    freshness_p99_ms: float

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON-serialisable dictionary."""
        return asdict(self)


def bench(events: int, rate: int, seconds: int, bar: ProgressBar) -> StreamResult:
    """Let a worker drain `events` events, then process `rate` events a second.

    Args:
        events: Events to drain.
        rate: Events a second of the paced part.
        seconds: Duration of the paced part.
        bar: Opens a progress bar with a title.

    Raises:
        RuntimeError: an engine or the worker does not start.
    """
    with tempfile.TemporaryDirectory() as folder, own_engines(Path(folder)) as config:
        return asyncio.run(_measure(config, events, rate, seconds, bar))


async def _measure(
    config: Settings, events: int, rate: int, seconds: int, bar: ProgressBar
) -> StreamResult:
    nc = await connect(config, "bench", timeout_s=20.0)
    try:
        await create_streams(nc.jetstream(), 0)
        source = _messages(config.shards)
        with bar("simulating events") as step:
            drained = _take(source, events, step)
            paced = _take(source, rate * seconds, lambda *_: None)
        with bar("publishing events") as step:
            await _publish(nc, drained, step)
        with _worker(config) as worker:
            with bar("processing with one worker") as step:
                per_s = await _drain(config, events, worker, step)
            before = read_buckets(_metrics(config), _FRESHNESS)
            with bar(f"{rate} events/s") as step:
                elapsed = await _pace(nc, paced, rate, step)
            after = read_buckets(_metrics(config), _FRESHNESS)
    finally:
        await nc.close()
    return StreamResult(
        events=events,
        events_per_s=per_s,
        rate=len(paced) / elapsed,
        freshness_p50_ms=quantile(before, after, 0.5) * 1e3,
        freshness_p99_ms=quantile(before, after, 0.99) * 1e3,
    )


def _messages(shards: int) -> Iterator[Publication]:
    """Subject and data of simulated transactions and labels, in order of time."""
    traffic, number = Traffic(_SEED), _DAY
    while True:
        for _, day, index, is_label in events_of_day(traffic, number):
            if is_label:
                labelled = label(day, index)
                yield subject(LABEL, labelled, shards), labelled.model_dump_json().encode()
            else:
                event = TransactionEvent(**transaction(day, index).model_dump())
                yield subject(TX, event, shards), event.model_dump_json().encode()
        number += 1


def _take(source: Iterator[Publication], count: int, step: Any) -> list[Publication]:
    messages = []
    for number in range(count):
        messages.append(next(source))
        if number % _BATCH == 0:
            step(number, count)
    step(count, count)
    return messages


async def _publish(nc: Client, messages: list[Publication], step: Any) -> None:
    js = nc.jetstream(publish_async_max_pending=2 * _BATCH)
    for begin in range(0, len(messages), _BATCH):
        acks = [await js.publish_async(*m) for m in messages[begin : begin + _BATCH]]
        await asyncio.gather(*acks)
        step(begin + len(acks), len(messages))


async def _drain(
    config: Settings, events: int, worker: "subprocess.Popen[bytes]", step: Any
) -> float:
    """Events/s between the first and the last observed progress.

    Raises:
        RuntimeError: the worker ended.
    """
    first_at, first = 0.0, 0
    while True:
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended: {_worker_log(config).read_text()[-500:]}")
        done, now = _events_processed(_metrics(config)), time.perf_counter()
        step(done, events)
        if done and not first:
            first_at, first = now, done
        if done >= events:
            return (done - first) / max(now - first_at, 1e-9)
        await asyncio.sleep(_POLL_S)


async def _pace(nc: Client, messages: list[Publication], rate: int, step: Any) -> float:
    """Publish at a rate; returns the seconds it elapsed."""
    js = nc.jetstream(publish_async_max_pending=2 * _BATCH)
    begin, sent = time.perf_counter(), 0
    while sent < len(messages):
        due = min(int((time.perf_counter() - begin) * rate) + 1, len(messages))
        for message in messages[sent:due]:
            await js.publish_async(*message)
        sent = due
        step(sent, len(messages))
        await asyncio.sleep(_TICK_S)
    await js.publish_async_completed()
    elapsed = time.perf_counter() - begin
    await asyncio.sleep(0.5)
    return elapsed


def _metrics(config: Settings) -> str:
    return f"http://127.0.0.1:{config.metrics_port}/metrics"


def _worker_log(config: Settings) -> Path:
    return config.home / "worker.log"


def _events_processed(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            families = text_string_to_metric_families(answer.read().decode())
    except OSError:
        return 0
    return sum(int(s.value) for f in families for s in f.samples if s.name == "events_total")


@contextmanager
def own_engines(home: Path) -> Iterator[Settings]:
    """Run a separate NATS and Redis."""
    config = Settings(
        home=home,
        nats_url="",
        redis_url="",
        s3_endpoint="http://127.0.0.1:9",  # no server: the worker needs no object store
        nats_port=free_port(),
        nats_http_port=free_port(),
        redis_port=free_port(),
        metrics_port=free_port(),
    )
    with (home / "engines.log").open("wb") as log:
        running = [
            subprocess.Popen(p.command, cwd=p.directory, stdout=log, stderr=log, env=environment())
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
    command = (sys.executable, "-m", "services.platform.run", "fraud", "feature-worker")
    with _worker_log(config).open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**environment(), **changed})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
