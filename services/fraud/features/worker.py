"""The feature worker: folds the stream into the online store and acknowledges after the write.

Several processes may share the rows (`whiteboard up --feature-workers 3`): each reads all events
and folds the rows of its shards, see `assignment.py`. For each batch a worker reads the rows, folds
the events and writes the rows back. If it is killed in between, it folds the batch again; `seq`
makes that harmless.

It folds only into states whose rows are complete, and takes rebuilt rows over: see `handover.py`.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import Gauge, Histogram
from redis.exceptions import RedisError

from features.aggregation import fold_events, identify, select_rows
from features.cluster.clients import open_link, open_redis, row_store
from features.cluster.rows import ClusterRowStore
from features.online.row_store import Fence, RowsLost, Superseded
from features.redis_connection import RedisLink
from features.spec import SEQ, Key, State
from services.fraud.features.ownership.assignment import (
    NAME,
    Assignment,
    assign,
    check_number,
)
from services.fraud.features.ownership.handover import ASSIGNMENT, RECORD
from services.fraud.features.ownership.row_owner import POLL_S, RowOwner
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import DEAD, STREAM, Event, parse_event
from services.platform.runtime.tasks import cancel_tasks
from services.platform.runtime.worker import freeze_gc
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import (
    ACK_WAIT_S,
    Message,
    OrderedConsumer,
    consume,
    dead_letter,
)
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS
from services.platform.types import Floats, Integers

log = logging.getLogger(__name__)

# How long to wait for a fuller batch: a batch of one costs nearly as much as a batch of ten.
MAX_WAIT_S = 0.02
# How long a node of a cluster may be away before its events are delivered again meanwhile.
_LEFT_OUT_S = 6 * 3600.0

FRESHNESS_SECONDS = Histogram(
    "freshness_seconds",
    "From storing an event in the stream until its state is readable",
    buckets=(
        0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1,
        5, 60,
    ),
)  # fmt: skip


# The page reads the other workers' figures, too.
INSTANCES = Gauge("sharing_processes", "Processes that share this one's work")


class FeatureWorker:
    """Folds batches of messages into the rows of the given states.

    Attributes:
        states: The states, which may be changed between batches.
        between_batches: Held while a batch is handled.
    """

    def __init__(
        self,
        js: JetStreamContext,
        redis: RedisLink,
        states: Sequence[State],
        assignment: Assignment | None = None,
        worker: int = 0,
        fence: Fence | None = None,
    ) -> None:
        """Open nothing.

        Args:
            assignment: Which rows are which worker's; None: all are its own.
            worker: Its number.
            fence: What must hold while it writes.
        """
        self._js = js
        self.states = states
        self._store = row_store(redis, states, fence)
        self._shards = redis.shards
        self._assignment = assignment or Assignment()
        self._worker = worker
        self.between_batches = asyncio.Lock()

    def is_complete(self) -> bool:
        """Whether all of its rows have the events so far: no shard of a cluster is left out."""
        return not (isinstance(self._store, ClusterRowStore) and self._store.blocked)

    async def claim(self, known: frozenset[int]) -> list[int]:
        """In a cluster, become the one that writes its shards.

        Args:
            known: Shards that were claimed before, by whatever worker.

        Returns:
            Those that were claimed now; the others are left out.
        """
        if not isinstance(self._store, ClusterRowStore):
            return []
        mine = self._assignment.shards_of(self._worker, self._shards)
        return await self._store.claim(mine, known)

    async def mended(self) -> None:
        """Wait until a shard that is left out can be written again."""
        while True:
            await asyncio.sleep(POLL_S)
            if isinstance(self._store, ClusterRowStore) and await self._store.is_mended():
                return

    async def handle(self, batch: list[Message]) -> None:
        """Fold one batch; messages that cannot be parsed become dead letters.

        Each message is counted by one worker: an event by the one that owns its customer, another
        message by the first.

        Raises:
            Superseded: the rows are another process's now.
            RowsLost: Redis has lost rows of earlier batches.
            redis.RedisError, OSError, nats.errors.Error: an engine is unavailable; retry the batch.
        """
        async with self.between_batches:
            parsed = await self._parse(batch)
            events = Events.of([e for e, _ in parsed], [m.seq for _, m in parsed])
            await self.fold(events, batch[-1].seq)
        now = time.time()
        counted = [m for e, m in parsed if self._assignment.owner(e.customer_id) == self._worker]
        for message in counted:
            FRESHNESS_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))
        EVENTS.labels(NAME, "folded").inc(len(counted))

    async def warm_up(self) -> None:
        """Load the compiled kernel before the first events arrive."""
        await self.fold(Events.of([], []))

    async def fold(self, events: Events, position: int | None = None) -> None:
        """Read the rows of the events' entities, fold, write back. Raises as `handle` does.

        Args:
            position: The rows have all events up to this sequence then; None: as before.
        """
        identified = {state.name: self._identify(state, events) for state in self.states}
        keys = {name: distinct for name, (_, distinct) in identified.items()}
        row_keys = self._store.row_keys(keys)
        tables = await self._store.read(row_keys)
        rows = {
            name: _without_unread(codes, tables[name]) for name, (codes, _) in identified.items()
        }
        fold_events(self.states, events, rows, tables)
        await self._store.write(row_keys, tables, position)

    def _identify(self, state: State, events: Events) -> tuple[Integers, list[Key]]:
        """`identify`, of the entities that are this worker's."""
        rows, keys = identify(state, events.keys)
        if self._assignment.workers == 1:
            return rows, keys
        return select_rows(
            rows, keys, [self._assignment.owns(self._worker, state, k) for k in keys]
        )

    async def _parse(self, batch: list[Message]) -> list[tuple[Event, Message]]:
        parsed: list[tuple[Event, Message]] = []
        for message in batch:
            try:
                parsed.append((parse_event(message), message))
            except ValueError as error:
                if self._worker == 0:
                    await dead_letter(self._js, DEAD, NAME, message, str(error))
                    EVENTS.labels(NAME, "dead").inc()
        return parsed


def _without_unread(rows: Integers, table: Floats) -> Integers:
    """(N,) row of each event, -1 where the row (K, width) is under another hash."""
    unread = np.isnan(table[:, SEQ])
    return np.where(unread[rows], -1, rows) if unread.any() else rows


async def main(config: Settings, worker: int = 0, workers: int | None = None) -> None:
    """Run until cancelled.

    Args:
        worker: Which one this is; one that no rows are assigned to waits.
        workers: How many there shall be; the first worker sees to it. None: as assigned.

    Raises:
        RuntimeError: another process runs as this worker.
    """
    nc = await connect(config, "feature-worker", timeout_s=60.0)
    redis = open_link(config)
    assigning = asyncio.create_task(_assign_workers(config, nc, workers if worker == 0 else None))
    try:
        await FeatureWorker(nc.jetstream(), redis, STATES).warm_up()
        freeze_gc()
        while True:
            assignment = await retry_forever(partial(_read, redis), "assignment", (RedisError,))
            INSTANCES.set(assignment.workers)
            if worker < assignment.workers:
                await _serve(config, nc, redis, assignment, worker)
            else:
                await asyncio.sleep(POLL_S)
    finally:
        assigning.cancel()
        redis.close()
        await nc.close()


async def _read(redis: RedisLink) -> Assignment:
    [found] = await redis.execute([("HGET", RECORD, ASSIGNMENT)])
    return Assignment.of({ASSIGNMENT: found.decode()} if found else {})


async def _assign_workers(config: Settings, nc: Client, workers: int | None) -> None:
    """Assign the rows to so many workers, once the present ones have taken what was rebuilt."""
    if workers is None:
        return
    open_client = partial(asyncio.to_thread, open_redis, config, socket_timeout=60.0)
    with await retry_forever(open_client, "redis", (RedisError,)) as redis:
        work = partial(assign, nc.jetstream(), redis, workers, config.shards)
        await retry_forever(work, f"{workers} workers", (RedisError, ValueError))


async def _serve(
    config: Settings, nc: Client, redis: RedisLink, assignment: Assignment, number: int
) -> None:
    """Own a worker's rows until there is another assignment."""
    name, js = assignment.durable(number), nc.jetstream()
    log.info("%s: worker %d of %d", name, number, assignment.workers)
    consumer = OrderedConsumer(
        nc, STREAM, name, max_wait_s=MAX_WAIT_S, first_after=assignment.after,
        ack_wait_s=_LEFT_OUT_S if redis.shards else ACK_WAIT_S,
    )  # fmt: skip
    open_client = partial(asyncio.to_thread, open_redis, config, socket_timeout=60.0)
    bulk = await retry_forever(open_client, "redis", (RedisError,))
    owner = RowOwner(config, js, redis, bulk, consumer, assignment, number)
    worker = FeatureWorker(js, redis, STATES, assignment, number, owner.fence)
    lag = asyncio.create_task(report_lag({NAME: consumer}))
    try:
        await retry_forever(owner.enter, "becoming the owner", (RedisError,))
        while await retry_forever(owner.still_owns, "the assignment", (RedisError,)):
            take_up = partial(_take_up, worker, owner)
            worker.states = await retry_forever(take_up, "taking over", (RedisError,))
            await _run_until_changed(worker, owner, consumer)
    finally:
        lag.cancel()
        owner.close()


async def _take_up(worker: FeatureWorker, owner: RowOwner) -> list[State]:
    """Claim the shards of a cluster, and take over. Returns the states whose rows are complete."""
    owner.claimed = await worker.claim(owner.known_shards)
    found = await owner.prepare()
    if owner.took_over:  # rows that were lost are there again
        owner.claimed = await worker.claim(frozenset())
    with suppress(RedisError, OSError):  # the record's node is away: next time
        await owner.note_shards()
    return found


async def _run_until_changed(
    worker: FeatureWorker, owner: RowOwner, consumer: OrderedConsumer
) -> None:
    """Consume until there is something for `RowOwner` to do; nothing is in flight then."""
    work = consume(consumer, worker.handle, retry_on=(RedisError,), may_ack=worker.is_complete)
    consuming = asyncio.create_task(work)
    watching = (asyncio.create_task(owner.changed()), asyncio.create_task(worker.mended()))
    try:
        await asyncio.wait((consuming, *watching), return_when=asyncio.FIRST_COMPLETED)
        if consuming.done():
            with suppress(Superseded, RowsLost):
                consuming.result()  # it ends by an error only
        async with worker.between_batches:
            await cancel_tasks(consuming)
        await consumer.stop()
    finally:
        await cancel_tasks(consuming, *watching)


def parse_arguments(config: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of `main` from the command line."""
    parser = argparse.ArgumentParser(prog="feature-worker", description=__doc__)
    parser.add_argument("--worker", type=int, default=0, help="which one this is, from 0")
    parser.add_argument("--workers", type=int, help="how many there shall be; from the first")
    parser.add_argument("--at-most", type=int, help="how many can be started here")
    options = parser.parse_args(arguments)
    if not 0 <= options.worker < config.shards:
        parser.error(f"--worker {options.worker}: from 0, and fewer than {config.shards} shards")
    if options.workers is not None:
        try:
            check_number(options.workers, config.shards)
        except ValueError as error:
            parser.error(str(error))
        if options.at_most is not None and options.workers > options.at_most:
            parser.error(
                f"{options.workers} feature workers: only {options.at_most} can be started, and "
                f"rows without a worker are not written; choose 1 to {options.at_most}"
            )
    del options.at_most
    return vars(options)
