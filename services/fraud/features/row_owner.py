"""What a feature worker owns: which of its rows are complete, and taking rebuilt rows over."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from nats.js import JetStreamContext
from redis import Redis
from redis.exceptions import RedisError

from features.redis_connection import RedisConnection
from features.spec import Key, State
from services.fraud.features.handover import (
    RECORD,
    Offer,
    OnlineRecord,
    Record,
    decoded,
    entries,
    pending,
    replace_rows,
)
from services.fraud.ingestion.events import STREAM, shard
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import OrderedConsumer

log = logging.getLogger(__name__)

_POLL_S = 1.0


class RowOwner:
    """The rows that one worker owns: which of them are complete, and taking over an offer."""

    def __init__(
        self,
        config: Settings,
        js: JetStreamContext,
        redis: RedisConnection,
        consumer: OrderedConsumer,
        name: str,
        states: Sequence[State],
        number: int | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            redis: The connection that the worker writes by.
            consumer: Its consumer, which does not run while `prepare` does.
            name: Its name.
            states: The states it owns rows of.
            number: The shard of the rows, None for all.
        """
        self._js = js
        self._redis = redis
        self._bulk = Redis.from_url(config.redis, socket_timeout=60.0)
        self._record = OnlineRecord(self._bulk)
        self._lake = Lake(config)
        self._consumer = consumer
        self._name = name
        self._states = states
        self._shards = config.shards
        self._number = number
        self._seen: Record = {}

    async def prepare(self) -> list[State]:
        """Take over an offer if there is one. Returns the states whose rows are complete.

        Raises:
            redis.RedisError, OSError, nats.errors.Error: an engine is unavailable. Try again.
        """
        record = await asyncio.to_thread(self._record.read)
        offer = pending(record, self._states, self._name)
        if offer is not None:
            await self._take(offer)
        backfilled = (await self._js.stream_info(STREAM)).state.first_seq - 1
        last_folded = max(await self._consumer.ack_floor(), backfilled)
        found = await asyncio.to_thread(self._record.usable, self._states, last_folded)
        for state in self._states:
            if state not in found:
                log.warning("%s: rows are not complete, run `whiteboard rebuild fraud`", state.name)
        self._seen = await asyncio.to_thread(self._record.read)
        return found

    async def changed(self) -> None:
        """Wait until there is another offer, or another entry for one of the states."""
        while True:
            await asyncio.sleep(_POLL_S)
            with suppress(RedisError, OSError, TimeoutError):
                [flat] = await self._redis.execute([("HGETALL", RECORD)])
                now = decoded(zip(flat[::2], flat[1::2], strict=True))
                if self._relevant(now) != self._relevant(self._seen):
                    return

    def close(self) -> None:
        """Close its connection."""
        self._bulk.close()

    async def _take(self, offer: Offer) -> None:
        log.info("taking over the rows as of sequence %d", offer.last_seq)
        # What was sent to Redis before this reply has been executed.
        await self._redis.execute([("PING",)])
        for state in self._states:
            count = await asyncio.to_thread(
                replace_rows, self._bulk, self._lake, offer, state, self._owns
            )
            log.info("%s: %d rows", state.name, count)
        await self._consumer.restart(after=offer.last_seq)
        await asyncio.to_thread(self._record.take, self._name, offer, self._states)

    def _relevant(self, record: Record) -> tuple[object, object]:
        return entries(record, self._states), pending(record, self._states, self._name)

    def _owns(self, state: State, key: Key) -> bool:
        """Whether the row of an entity is this worker's."""
        entity = key[state.keys.index(state.shard)]
        return self._number is None or shard(entity, self._shards) == str(self._number)
