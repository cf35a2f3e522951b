"""Benchmark of one feature worker on separate engines: events a second, and feature freshness.

The running stack is not used: the benchmark's transactions must not reach its state.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from nats.aio.client import Client
from nats.js import JetStreamContext
from redis import Redis

from infra.local.engines import engines, environment, free_port
from services.fraud.features.ownership.assignment import Assignment, assign, floor
from services.fraud.ingestion.events import LABEL, STREAM, TX, TransactionEvent, subject
from services.fraud.simulator.bootstrap import create_streams
from services.fraud.simulator.tables import events_of_day, label, transaction
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressBar
from services.platform.runtime.scrape import Buckets, quantile, read_buckets
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

_SEED, _DAY = 7, 30
_BATCH = 1_000
_TICK_S = 0.01
_POLL_S, _DRAIN_POLL_S = 0.5, 0.1
_FRESHNESS = "freshness_seconds"

Publication = tuple[str, bytes]


@dataclass(frozen=True)
class StreamResult:
    """The measurements. Freshness is the time from the stream's timestamp to a readable state.

    Attributes:
        workers: Feature workers that shared the rows.
        events: Number of events drained.
        events_per_s: Rate of draining.
        cpu_us: Processor microseconds an event of all workers together, while draining.
        engines_cpu_us: The same of NATS and Redis.
        rate: Events a second of the paced part.
        freshness_p50_ms: Median freshness of the paced part.
        freshness_p99_ms: 99th percentile of the freshness of the paced part.
    """

    workers: int
    events: int
    events_per_s: float
    cpu_us: float
    engines_cpu_us: float
    rate: float
    freshness_p50_ms: float
    freshness_p99_ms: float

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON-serialisable dictionary."""
        return asdict(self)


def bench(events: int, rate: int, seconds: int, bar: ProgressBar, workers: int = 1) -> StreamResult:
    """Let feature workers drain `events` events, then process `rate` events a second.

    Args:
        events: Events to drain.
        rate: Events a second of the paced part.
        seconds: Duration of the paced part.
        bar: Opens a progress bar with a title.
        workers: How many share the rows.

    Raises:
        RuntimeError: an engine or a worker does not start.
    """
    with tempfile.TemporaryDirectory() as folder, own_engines(Path(folder)) as config:
        return asyncio.run(_measure(config, events, rate, seconds, bar, workers))


async def _measure(
    config: Settings, events: int, rate: int, seconds: int, bar: ProgressBar, workers: int
) -> StreamResult:
    nc = await connect(config, "bench", timeout_s=20.0)
    js, engine_processes = nc.jetstream(), psutil.Process().children()
    try:
        await create_streams(js, 0)
        with Redis.from_url(config.redis) as redis:
            assignment = await assign(js, redis, workers, config.shards)
        source = _messages(config.shards)
        with bar("simulating events") as step:
            drained = _take(source, events, step)
            paced = _take(source, rate * seconds, lambda *_: None)
        with _workers(config, workers) as (running, urls):
            await _until_ready(js, assignment, running)
            with _stopped(running), bar("publishing events") as step:
                await _publish(nc, drained, step)
            cpu, engines_cpu = _cpu_s(running), _cpu_s(engine_processes)
            begin = time.perf_counter()
            with bar(f"processing with {workers} feature workers") as step:
                await _drain(js, assignment, events, running, step)
            took = time.perf_counter() - begin
            cpu, engines_cpu = _cpu_s(running) - cpu, _cpu_s(engine_processes) - engines_cpu
            before = _freshness(urls)
            with bar(f"{rate} events/s") as step:
                elapsed = await _pace(nc, paced, rate, step)
            after = _freshness(urls)
    finally:
        await nc.close()
    return StreamResult(
        workers=workers,
        events=events,
        events_per_s=events / took,
        cpu_us=cpu / events * 1e6,
        engines_cpu_us=engines_cpu / events * 1e6,
        rate=len(paced) / elapsed,
        freshness_p50_ms=quantile(before, after, 0.5) * 1e3,
        freshness_p99_ms=quantile(before, after, 0.99) * 1e3,
    )


async def _until_ready(
    js: JetStreamContext, assignment: Assignment, running: Sequence[psutil.Process]
) -> None:
    """Wait until every worker consumes. RuntimeError: one ended."""
    while len(await js.consumers_info(STREAM)) < assignment.workers:
        _check(running)
        await asyncio.sleep(_POLL_S)


@contextmanager
def _stopped(running: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop the workers while events are published, so that all begin with the same backlog."""
    for process in running:
        process.suspend()
    try:
        yield
    finally:
        for process in running:
            process.resume()


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (p.cpu_times() for p in processes))


def _check(running: Sequence[psutil.Process]) -> None:
    # One that ended is a zombie until its parent, this process, has waited for it.
    if not all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in running):
        raise RuntimeError("a feature worker ended")


def _freshness(urls: Sequence[str]) -> Buckets:
    """The sum of the workers' histograms."""
    found = [read_buckets(url, _FRESHNESS) for url in urls]
    return {bound: sum(one[bound] for one in found) for bound in found[0]}


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
    js: JetStreamContext,
    assignment: Assignment,
    events: int,
    running: Sequence[psutil.Process],
    step: Any,
) -> None:
    """Wait until every worker has folded all events. RuntimeError: one ended."""
    while True:
        _check(running)
        done = min([await floor(js, assignment, n) for n in range(assignment.workers)])
        step(done, events)
        if done >= events:
            return
        await asyncio.sleep(_DRAIN_POLL_S)


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
def _workers(config: Settings, count: int) -> Iterator[tuple[list[psutil.Process], list[str]]]:
    """The processes of feature workers, and the URLs of their metrics."""
    changed = {
        "WHITEBOARD_HOME": str(config.home),
        "WHITEBOARD_NATS_URL": config.nats,
        "WHITEBOARD_REDIS_URL": config.redis,
    }
    ports = [free_port() for _ in range(count)]
    run = (sys.executable, "-m", "services.platform.run")
    with (config.home / "workers.log").open("wb") as log:
        processes = [
            subprocess.Popen(
                (*run, "--port", str(port), "fraud", "feature-worker", "--worker", str(number)),
                stderr=log,
                env={**environment(), **changed},
            )
            for number, port in enumerate(ports)
        ]
    try:
        urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
        yield [psutil.Process(process.pid) for process in processes], urls
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
