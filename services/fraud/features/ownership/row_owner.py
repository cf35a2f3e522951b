"""What a feature worker owns: which of its rows are complete, and taking rebuilt rows over."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

from nats.js import JetStreamContext
from redis import Redis
from redis.exceptions import RedisError

from features.online.row_store import Fence
from features.redis_connection import RedisLink
from features.spec import Key, State
from services.fraud.features.ownership.assignment import Assignment, floor
from services.fraud.features.ownership.handover import (
    ASSIGNMENT,
    POSITIONS,
    RECORD,
    Offer,
    OnlineRecord,
    Record,
    decoded,
    entries,
    owner_field,
    pending,
    position_keys,
    replace_rows,
    shard_field,
    shards_of,
)
from services.fraud.features.states import STATES
from services.fraud.ingestion.events import STREAM
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import OrderedConsumer

log = logging.getLogger(__name__)

POLL_S = 1.0


class RowOwner:
    """The rows that one worker owns: which of them are complete, and taking over an offer.

    Attributes:
        fence: What holds while this process may write them.
        known_shards: In a cluster, the shards that had rows when `still_owns` was asked.
        claimed: In a cluster, the shards that it may write now.
        took_over: Whether the last `prepare` took an offer.
    """

    def __init__(
        self,
        config: Settings,
        js: JetStreamContext,
        redis: RedisLink,
        bulk: Redis,
        consumer: OrderedConsumer,
        assignment: Assignment,
        worker: int,
    ) -> None:
        """Open nothing yet.

        Args:
            redis: The connection that the worker writes by.
            bulk: A blocking client, which it closes.
            consumer: Its consumer, which does not run while `prepare` does.
            assignment: Which rows are which worker's.
            worker: Its number.
        """
        self._js = js
        self._redis = redis
        self._bulk = bulk
        self._record = OnlineRecord(self._bulk)
        self._lake = Lake(config)
        self._consumer = consumer
        self._assignment = assignment
        self._worker = worker
        self._name = assignment.durable(worker)
        self._states = STATES
        self._process = uuid4().hex[:12]
        self._seen: Record = {}
        self.known_shards: frozenset[int] = frozenset()
        self.claimed: list[int] = []
        self.took_over = False
        encoded = assignment.encoded().encode() if assignment.epoch else None
        owner = owner_field(self._name)
        holds = {ASSIGNMENT: encoded, owner: self._process.encode()}
        self.fence = Fence(RECORD, holds, (POSITIONS, self._name))

    async def enter(self) -> None:
        """Become the one process that runs as this worker; one that did so before writes no more.

        Raises:
            redis.RedisError, OSError: Redis is unavailable.
        """
        await self._redis.execute([("HSET", RECORD, owner_field(self._name), self._process)])

    async def still_owns(self) -> bool:
        """Whether the rows are this worker's as before; false once there is another assignment.

        A record that was lost with Redis is entered again.

        Raises:
            RuntimeError: another process runs as this worker.
            redis.RedisError, OSError: Redis is unavailable.
        """
        record = await self._read()
        if Assignment.of(record) != self._assignment:
            return False
        self.known_shards = shards_of(record)
        process = record.get(owner_field(self._name))
        if process is None:
            await self.enter()
        elif process != self._process:
            raise RuntimeError(f"another process runs as feature worker {self._worker}")
        return True

    async def prepare(self) -> list[State]:
        """Take over an offer if there is one, and go back to what Redis has of the rows.

        Returns the states whose rows are complete.

        Raises:
            redis.RedisError, OSError, nats.errors.Error: an engine is unavailable. Try again.
        """
        record = await asyncio.to_thread(self._record.read)
        offer = pending(record, self._states, self._name)
        self.took_over = offer is not None
        if offer is not None:
            await self._take(offer)
        backfilled = (await self._js.stream_info(STREAM)).state.first_seq - 1
        last_folded = max(await floor(self._js, self._assignment, self._worker), backfilled)
        last_folded = await self._go_back(last_folded)
        found = await asyncio.to_thread(self._record.usable, self._states, last_folded)
        for state in self._states:
            if state not in found:
                log.warning("%s: rows are not complete, run `whiteboard rebuild fraud`", state.name)
        self._seen = await asyncio.to_thread(self._record.read)
        return found

    async def _go_back(self, last_folded: int) -> int:
        """Have the events folded again whose rows Redis has lost. Returns the last before them."""
        keys = position_keys(self._redis, self.claimed)
        found = await self._redis.execute([("HGET", key, self._name) for key in keys])
        # Without one, rows are from before positions were noted.
        absent = [key for key, position in zip(keys, found, strict=True) if position is None]
        await self._note_position(last_folded, absent)
        position = min((int(p) for p in found if p is not None), default=last_folded)
        if position < last_folded:
            log.warning(
                "%s: Redis has lost the rows of sequence %d to %d: folding them again",
                self._name, position + 1, last_folded,
            )  # fmt: skip
            await self._consumer.restart(after=position)
            return position
        return last_folded

    async def _note_position(self, seq: int, keys: Iterable[str]) -> None:
        await self._redis.execute([("HSET", key, self._name, str(seq)) for key in keys])

    async def changed(self) -> None:
        """Wait until there is another assignment, owner, offer, or entry for one of the states."""
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(RedisError, OSError, TimeoutError):
                if self._relevant(await self._read()) != self._relevant(self._seen):
                    return

    async def note_shards(self) -> None:
        """Note that claimed shards have their rows. Raises redis.RedisError, OSError."""
        new = [
            pair
            for n in self.claimed
            if n not in self.known_shards
            for pair in (shard_field(n), "1")
        ]
        if new:
            await self._redis.execute([("HSET", RECORD, *new)])

    def close(self) -> None:
        """Close its connection."""
        self._bulk.close()

    async def _take(self, offer: Offer) -> None:
        log.info("taking over the rows as of sequence %d", offer.last_seq)
        # What was sent to Redis before this reply has been executed.
        for node in self._redis.nodes:
            await node.execute([("PING",)])
        for state in self._states:
            count = await asyncio.to_thread(
                replace_rows, self._bulk, self._lake, offer, state, self._owns
            )
            log.info("%s: %d rows", state.name, count)
        await self._note_position(offer.last_seq, position_keys(self._redis, self.claimed))
        await self._consumer.restart(after=offer.last_seq)
        await asyncio.to_thread(self._record.take, self._name, offer, self._states)

    async def _read(self) -> Record:
        [flat] = await self._redis.execute([("HGETALL", RECORD)])
        return decoded(zip(flat[::2], flat[1::2], strict=True))

    def _relevant(self, record: Record) -> tuple[object, ...]:
        return (
            record.get(ASSIGNMENT),
            record.get(owner_field(self._name)),
            entries(record, self._states),
            pending(record, self._states, self._name),
        )

    def _owns(self, state: State, key: Key) -> bool:
        return self._assignment.owns(self._worker, state, key)
