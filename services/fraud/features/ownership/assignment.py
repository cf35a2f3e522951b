"""Which feature worker owns which rows, and changing their number while events arrive.

Every worker reads all events and folds those rows whose shard is its own: shard s of an entity is
worker `s % workers`'s (ADR 23). An assignment is one field of the record in Redis. It has an epoch,
and each change makes a new one in one command. From then on

- no worker of an older epoch writes a row: its transactions are conditional on the record
  (`features.online.row_store.Fence`), also those of a process that hung meanwhile;
- each worker of the new epoch reads from `after`: the lowest position of the old workers, so every
  row has all events up to it. Events behind it that a row has already change nothing.

The durable consumers of an epoch have its number in their names. So no late acknowledgement by a
worker of an older epoch moves a position of the new one.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis import Redis
from redis.exceptions import RedisError, WatchError

from features.cluster.clients import open_redis
from features.spec import Key, State
from services.fraud.features.ownership.handover import (
    ASSIGNMENT,
    POSITIONS,
    RECORD,
    decoded,
    fields_of,
    pending,
    position_keys,
)
from services.fraud.features.states import STATES
from services.fraud.ingestion.events import STREAM, shard
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

NAME = "features"


@dataclass(frozen=True)
class Assignment:
    """The workers of one epoch.

    Attributes:
        epoch: When it was made, seconds since 1970; 0 for the first. It is never used again, even
            if Redis loses the record: consumers that are left have its number.
        workers: How many workers there are.
        shards: Shards of each entity that they share.
        after: Every row has all events up to this sequence.
    """

    epoch: int = 0
    workers: int = 1
    shards: int = 1
    after: int = 0

    @classmethod
    def of(cls, record: Mapping[str, str]) -> "Assignment":
        """The one in a record: one worker for all rows where there is none."""
        return cls(**orjson.loads(record[ASSIGNMENT])) if ASSIGNMENT in record else cls()

    def durable(self, worker: int) -> str:
        """Name of a worker's durable consumer.

        >>> Assignment().durable(0), Assignment(epoch=2, workers=3, shards=16).durable(1)
        ('features', 'features-2-1')
        """
        return f"{NAME}-{self.epoch}-{worker}" if self.epoch else NAME

    @property
    def durables(self) -> list[str]:
        """The names of all of them."""
        return [self.durable(worker) for worker in range(self.workers)]

    def owner(self, entity: str) -> int:
        """The worker that owns the rows of an entity.

        >>> Assignment(epoch=1, workers=3, shards=16).owner("c1")
        1
        """
        return int(shard(entity, self.shards)) % self.workers if self.workers > 1 else 0

    def owns(self, worker: int, state: State, key: Key) -> bool:
        """Whether a row is a worker's; a pair's is the one's that owns its sharding entity."""
        return self.owner(key[state.keys.index(state.shard)]) == worker

    def shards_of(self, worker: int, shards: int) -> range:
        """The shards that a worker owns.

        Args:
            shards: How many there are.

        >>> list(Assignment(epoch=1, workers=3, shards=8).shards_of(1, 8))
        [1, 4, 7]
        """
        return range(worker, shards, self.workers)

    def encoded(self) -> str:
        """As it is stored."""
        return orjson.dumps(asdict(self)).decode()


def check_number(workers: int, shards: int) -> None:
    """ValueError if so many workers cannot share the shards."""
    if not 1 <= workers <= shards:
        raise ValueError(
            f"{workers} feature workers: choose 1 to {shards}, one per shard at most "
            f"(WHITEBOARD_SHARDS={shards})"
        )


def read_assignment(redis: Redis) -> Assignment:
    """The present assignment. Raises redis.RedisError."""
    found = redis.hget(RECORD, ASSIGNMENT)
    return Assignment.of({ASSIGNMENT: found.decode()} if isinstance(found, bytes) else {})


def present_assignment(config: Settings) -> Assignment:
    """The present assignment; the first one while Redis does not answer."""
    with suppress(RedisError), open_redis(config, socket_timeout=5.0) as redis:
        return read_assignment(redis)
    return Assignment()


def assign_workers(config: Settings, workers: int) -> Assignment:
    """Make the number of feature workers this one, while they run or not.

    Raises:
        ValueError: the shards are too few, or workers have not taken rebuilt rows yet.
        ConnectionError, OSError: an engine does not answer.
    """
    check_number(workers, config.shards)
    return asyncio.run(_assign(config, workers))


async def _assign(config: Settings, workers: int) -> Assignment:
    nc = await connect(config, "feature-workers")
    try:
        with open_redis(config, socket_timeout=60.0) as redis:
            return await assign(nc.jetstream(), redis, workers, config.shards)
    except RedisError as error:
        raise ConnectionError(f"no Redis: {error}: is the stack up? `whiteboard up`") from None
    finally:
        await nc.close()


async def assign(js: JetStreamContext, redis: Redis, workers: int, shards: int) -> Assignment:
    """As `assign_workers`, with connections.

    Raises:
        ValueError: as `assign_workers`; or another process changed the record just now.
        redis.RedisError, OSError, nats.errors.Error: an engine is unavailable.
    """
    with redis.pipeline(transaction=True) as pipe:
        pipe.watch(RECORD)
        record = decoded(pipe.hgetall(RECORD).items())  # type: ignore[union-attr]
        old = Assignment.of(record)
        if old.workers == workers:
            return old
        _check_taken(record, old)
        epoch = max(old.epoch + 1, int(time.time()))
        positions = _positions(redis, old)
        new = Assignment(epoch, workers, shards, await _lowest(js, old, positions))
        pipe.multi()
        added, removed = fields_of(record, new.durables, old.durables)
        pipe.hset(RECORD, mapping={**added, ASSIGNMENT: new.encoded()})
        if removed:
            pipe.hdel(RECORD, *removed)
        # A cluster's are in other slots, and their names never return.
        if POSITIONS in position_keys(redis):
            pipe.hdel(POSITIONS, *old.durables)
        try:
            pipe.execute()
        except WatchError:
            raise ValueError("the feature workers changed just now: run it again") from None
    for name in old.durables:
        with suppress(NotFoundError):
            await js.delete_consumer(STREAM, name)
    return new


def _check_taken(record: Mapping[str, str], old: Assignment) -> None:
    """ValueError if a worker has yet to take rebuilt rows: its shards' rows are in the lake."""
    waiting = [name for name in old.durables if pending(record, STATES, name) is not None]
    if waiting:
        raise ValueError(
            f"{', '.join(waiting)} has not taken the rebuilt rows yet: run it again when "
            "`whiteboard rebuild fraud` is done"
        )


def _positions(redis: Redis, old: Assignment) -> list[bytes | None]:
    """Up to which sequence Redis has the rows of each worker, and in a cluster of each shard."""
    count = getattr(redis, "shards", 0)
    found: list[Any] = []
    for worker, name in enumerate(old.durables):
        keys = position_keys(redis, old.shards_of(worker, count))
        found += [redis.hget(key, name) for key in keys]
    return found


async def _lowest(js: JetStreamContext, old: Assignment, positions: list[bytes | None]) -> int:
    """The sequence up to which every worker has folded all events. It may only be too low.

    Args:
        positions: By worker, up to which sequence Redis has its rows, where that is known.
    """
    floors = [await floor(js, old, worker) for worker in range(old.workers)]
    return min([*floors, *(int(position) for position in positions if position is not None)])


async def floor(js: JetStreamContext, assignment: Assignment, worker: int) -> int:
    """The sequence up to which a worker has folded all events."""
    try:
        info = await js.consumer_info(STREAM, assignment.durable(worker))
    except NotFoundError:
        return assignment.after
    acknowledged = info.ack_floor.stream_seq if info.ack_floor else 0
    return max(acknowledged, assignment.after)
