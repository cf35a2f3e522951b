"""What was replayed before, so that no file is folded into the features twice."""

import asyncio
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.kv import KeyValue

from services.fraud.ingestion.events import STREAM, TX, SimulatedEvent, microseconds
from services.fraud.simulator.gateway import message_id
from services.platform.streaming.connection import ensure_bucket
from services.platform.streaming.retry import retry_forever
from services.platform.streaming.stored import bucket_entries

BUCKET = "replays"
_CHECKPOINT_S = 1.0
# An event in flight is published within the scorer's timeout (10 s) of a checkpoint, or not at all.
_AROUND = timedelta(seconds=60)


@dataclass
class ReplayRecord:
    """How far a file was replayed.

    Attributes:
        file: Its name at that time.
        sketch: `TransactionFile.sketch()`.
        since_us: Event time of the first transaction that was asked for; None for the beginning.
        reached_us: All events up to this event time are in the stream, microseconds since the
            epoch; None if there are none.
        transactions: Number of transactions that are in the stream.
        updated: When this was written, ISO 8601.
    """

    file: str
    sketch: list[str]
    since_us: int | None = None
    reached_us: int | None = None
    transactions: int = 0
    updated: str = ""


class ReplayLog:
    """Records of replays in a NATS key-value bucket, beside the stream they were sent to."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        self._js = js
        self._bucket = bucket

    @classmethod
    async def open(cls, js: JetStreamContext) -> "ReplayLog":
        """Open the bucket; it is created if it is missing."""
        return cls(js, await ensure_bucket(js, BUCKET))

    async def find(self, sketch: list[str]) -> ReplayRecord | None:
        """The furthest replay of a file that shares transactions with this one."""
        found = []
        async for value in bucket_entries(self._js, BUCKET):
            record = ReplayRecord(**orjson.loads(value))
            if not set(sketch).isdisjoint(record.sketch):
                found.append(record)
        return max(found, key=lambda one: one.reached_us or 0, default=None)

    async def write(self, record: ReplayRecord) -> None:
        """Store a record."""
        record.updated = datetime.now(UTC).isoformat()
        put = partial(self._bucket.put, _key(record), orjson.dumps(asdict(record)))
        await retry_forever(put, "the replay's record")

    async def delete(self, record: ReplayRecord) -> None:
        """Forget a replay that sent nothing."""
        await retry_forever(partial(self._bucket.delete, _key(record)), "the replay's record")

    async def published_around(self, record: ReplayRecord) -> set[str]:
        """Message ids in the stream from a minute before to a minute after a record was written.

        A record may be older than what was sent: a replay that was killed published events behind
        `reached_us`, and events of one time may have been sent in part.
        """
        updated = datetime.fromisoformat(record.updated)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=updated - _AROUND,
            headers_only=True,
        )
        messages = await self._js.subscribe(
            "fraud.>", stream=STREAM, ordered_consumer=True, config=config
        )
        found: set[str] = set()
        try:
            while True:
                message = await messages.next_msg(timeout=2.0)
                if message.metadata.timestamp > updated + _AROUND:
                    return found
                found.add((message.headers or {}).get("Nats-Msg-Id", ""))
                if not message.metadata.num_pending:
                    return found
        except NatsTimeout:  # an empty stream
            return found
        finally:
            await messages.unsubscribe()


def _key(record: ReplayRecord) -> str:
    return hashlib.sha256(" ".join(record.sketch).encode()).hexdigest()[:32]


class ReplayProgress:
    """Keeps a record up to date while its events are sent.

    Attributes:
        record: The record.
    """

    def __init__(self, record: ReplayRecord, known: Collection[str] = ()) -> None:
        """Continue a record.

        Args:
            record: The record.
            known: Message ids that are in the stream already; these events are not sent again.
        """
        self.record = record
        self._known = known
        # By message id, the event time of each event that was begun and not acknowledged.
        self._in_flight: dict[str, int] = {}
        # All events up to here were begun.
        self._begun_us = record.reached_us

    def events(self, events: Iterable[SimulatedEvent]) -> Iterator[SimulatedEvent]:
        """The events, in order of time, that are not in the stream yet."""
        last_us = self._begun_us
        for simulated in events:
            last_us = microseconds(simulated.event.event_time)
            self._begun_us = last_us - 1  # more events may have this time
            identity = message_id(simulated.event)
            if identity not in self._known:
                self._in_flight[identity] = last_us
                yield simulated
        self._begun_us = last_us

    def published(self, identity: str) -> None:
        """Note that the stream has an event."""
        self._in_flight.pop(identity, None)
        self.record.transactions += identity.startswith(TX)

    def update(self) -> ReplayRecord:
        """The record as of now."""
        self.record.reached_us = self._begun_us
        if self._in_flight:
            self.record.reached_us = next(iter(self._in_flight.values())) - 1
        return self.record

    async def write_forever(self, log: ReplayLog) -> None:
        """Store the record every second."""
        while True:
            await log.write(self.update())
            await asyncio.sleep(_CHECKPOINT_S)
