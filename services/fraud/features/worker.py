"""The feature worker: folds the stream into the online store and acknowledges after the write.

One process owns a set of rows: all of them, or one shard of one entity (`--entity merchant_id
--shard 3`, one process per shard). For each batch it reads the rows, folds the events and writes
the rows back. If it is killed in between, it folds the batch again; `seq` makes that harmless.

It folds only into states whose rows are complete, and takes rebuilt rows over: see `handover.py`.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from nats.js import JetStreamContext
from prometheus_client import Histogram
from redis.exceptions import RedisError

from features.aggregation import fold_events, identify
from features.online import RowStore
from features.redis_connection import RedisConnection
from features.spec import SEQ, State
from services.fraud.features.row_owner import RowOwner
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import DEAD, STREAM, Event, parse_event, worker_subject
from services.platform.runtime.tasks import cancel_tasks
from services.platform.runtime.worker import freeze_gc
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume, dead_letter
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS
from services.platform.types import Floats, Integers

NAME = "features"
# How long to wait for a fuller batch: a batch of one costs nearly as much as a batch of ten.
MAX_WAIT_S = 0.02

FRESHNESS_SECONDS = Histogram(
    "freshness_seconds",
    "From storing an event in the stream until its state is readable",
    buckets=(
        0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1,
        5, 60,
    ),
)  # fmt: skip


class FeatureWorker:
    """Folds batches of messages into the rows of the given states.

    Attributes:
        states: The states, which may be changed between batches.
        between_batches: Held while a batch is handled.
    """

    def __init__(
        self,
        js: JetStreamContext,
        redis: RedisConnection,
        states: Sequence[State],
        name: str = NAME,
    ) -> None:
        self._js = js
        self.states = states
        self._store = RowStore(redis, states)
        self._name = name
        self.between_batches = asyncio.Lock()

    async def handle(self, batch: list[Message]) -> None:
        """Fold one batch; messages that cannot be parsed become dead letters.

        Raises:
            redis.RedisError, OSError, nats.errors.Error: an engine is unavailable; retry the batch.
        """
        async with self.between_batches:
            events, seqs = await self._parse(batch)
            if events:
                await self.fold(Events.of(events, seqs))
        now = time.time()
        for message in batch:
            FRESHNESS_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))
        EVENTS.labels(self._name, "folded").inc(len(events))

    async def warm_up(self) -> None:
        """Load the compiled kernel before the first events arrive."""
        await self.fold(Events.of([], []))

    async def fold(self, events: Events) -> None:
        """Read the rows of the events' entities, fold, write back. Raises as `handle` does."""
        identified = {state.name: identify(state, events.keys) for state in self.states}
        keys = {name: distinct for name, (_, distinct) in identified.items()}
        row_keys = self._store.row_keys(keys)
        tables = await self._store.read(row_keys)
        rows = {
            name: _without_unread(codes, tables[name]) for name, (codes, _) in identified.items()
        }
        fold_events(self.states, events, rows, tables)
        await self._store.write(row_keys, tables)

    async def _parse(self, batch: list[Message]) -> tuple[list[Event], list[int]]:
        events: list[Event] = []
        seqs: list[int] = []
        for message in batch:
            try:
                events.append(parse_event(message))
                seqs.append(message.seq)
            except ValueError as error:
                await dead_letter(self._js, DEAD, self._name, message, str(error))
                EVENTS.labels(self._name, "dead").inc()
        return events, seqs


def _without_unread(rows: Integers, table: Floats) -> Integers:
    """(N,) row of each event, -1 where the row (K, width) is under another hash."""
    unread = np.isnan(table[:, SEQ])
    return np.where(unread[rows], -1, rows) if unread.any() else rows


async def main(config: Settings, entity: str | None = None, shard: int | None = None) -> None:
    """Run until cancelled: on all rows, or on those of one shard of an entity."""
    nc = await connect(config, "feature-worker", timeout_s=60.0)
    name = NAME if entity is None else f"{NAME}-{entity}-{shard}"
    states = [s for s in STATES if entity in (None, s.shard)]
    consumer = OrderedConsumer(
        nc, STREAM, name, worker_subject(entity, shard), max_wait_s=MAX_WAIT_S
    )
    redis = RedisConnection(config.redis)
    worker = FeatureWorker(nc.jetstream(), redis, states, name)
    owner = RowOwner(config, nc.jetstream(), redis, consumer, name, states, shard)
    lag = asyncio.create_task(report_lag({name: consumer}))
    await worker.warm_up()
    freeze_gc()
    try:
        while True:
            worker.states = await retry_forever(owner.prepare, "taking over", (RedisError,))
            await _run_until_changed(worker, owner, consumer)
    finally:
        lag.cancel()
        owner.close()
        redis.close()
        await nc.close()


async def _run_until_changed(
    worker: FeatureWorker, owner: RowOwner, consumer: OrderedConsumer
) -> None:
    """Consume until there is something for `RowOwner.prepare` to do; nothing is in flight then."""
    consuming = asyncio.create_task(consume(consumer, worker.handle, retry_on=(RedisError,)))
    watching = asyncio.create_task(owner.changed())
    try:
        await asyncio.wait((consuming, watching), return_when=asyncio.FIRST_COMPLETED)
        if consuming.done():
            consuming.result()  # it ends by an error only
        async with worker.between_batches:
            await cancel_tasks(consuming)
        await consumer.stop()
    finally:
        await cancel_tasks(consuming, watching)


def parse_arguments(config: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of `main` from the command line."""
    parser = argparse.ArgumentParser(prog="feature-worker", description=__doc__)
    entities = sorted({state.shard for state in STATES})
    parser.add_argument("--entity", choices=entities, help="own one shard of this entity")
    parser.add_argument("--shard", type=int, help="which shard")
    options = parser.parse_args(arguments)
    if (options.entity is None) != (options.shard is None):
        parser.error("--entity and --shard go together")
    if options.shard is not None and not 0 <= options.shard < config.shards:
        parser.error(f"--shard {options.shard}: there are {config.shards} shards, from 0")
    return vars(options)
