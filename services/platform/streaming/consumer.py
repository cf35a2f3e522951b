"""The stream: JetStream connections, streams, and a durable consumer that never reorders.

State folds in stream order, so order is what matters here. A plain durable consumer gives it up
exactly when something fails: messages in flight to a client that died come again only after the
acknowledgement times out, behind newer ones. `OrderedConsumer` starts anew behind the last
acknowledged message instead, whenever it finds a delivery missing.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError
from nats.js.kv import KeyValue
from redis.exceptions import RedisError

from services.platform.settings import Settings

log = logging.getLogger(__name__)

DUPLICATE_WINDOW = timedelta(minutes=2)
_PULL_EXPIRES_S, _GRACE_S = 2.0, 1.0
_ACK_WAIT_S = 30.0
_RETRY_S = 0.5
# Status of a request that found too few messages in its time.
_EXPIRED = "408"
_LEFT = "Nats-Pending-Messages"
# $JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<delivery>.<time>.<pending>
_OLD_FORM = 9

EVERYTHING = ">"

T = TypeVar("T")


def open_connection(settings: Settings, name: str) -> tuple[Client, asyncio.Task[None]]:
    """A client and the task that connects it, for as long as it takes.

    Losses of the connection later on mend themselves too.
    """

    async def on_error(error: Exception) -> None:
        log.debug("nats: %s", error or type(error).__name__)

    async def on_disconnect() -> None:
        if not client.is_closed:  # by us
            log.info("nats is away")

    async def on_reconnect() -> None:
        log.info("nats is back")

    client = Client()
    connecting = client.connect(
        settings.nats,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_RETRY_S,
        ping_interval=5,
        max_outstanding_pings=2,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
    )
    return client, asyncio.create_task(connecting)


async def connect(settings: Settings, name: str, patience_s: float = 5.0) -> Client:
    """Connect to NATS.

    Raises:
        ConnectionError: nobody answers within `patience_s` seconds.
    """
    client, connecting = open_connection(settings, name)
    try:
        await asyncio.wait_for(connecting, patience_s)
    except (TimeoutError, OSError, NatsError) as error:
        where = settings.nats.rpartition("@")[2]
        raise ConnectionError(f"no NATS at {where}: is the stack up? `whiteboard up`") from error
    return client


async def ensure_stream(
    js: JetStreamContext, name: str, subjects: list[str], first_seq: int = 1
) -> None:
    """Create a stream unless it exists. Its first message gets sequence `first_seq`.

    One that was made before batches were atomic learns to take them.
    """
    try:
        config = (await js.stream_info(name)).config
    except NotFoundError:
        config = api.StreamConfig(
            name=name,
            subjects=subjects,
            first_seq=first_seq,
            storage=api.StorageType.FILE,
            duplicate_window=DUPLICATE_WINDOW.total_seconds(),
            max_bytes=4 << 30,
            allow_atomic=True,
        )
        await js.add_stream(config)
    else:
        if not config.allow_atomic:
            await js.update_stream(replace(config, allow_atomic=True))


async def ensure_bucket(js: JetStreamContext, name: str) -> KeyValue:
    """A bucket of keys and values, created unless it exists."""
    try:
        return await js.key_value(name)
    except NotFoundError:
        return await js.create_key_value(bucket=name)


@dataclass(frozen=True)
class Delivered:
    """One message as consumers here see it.

    Attributes:
        seq: Sequence in the stream.
        published_us: When the stream took it, microseconds since the epoch. Unlike a reader's
            clock it is the same for every consumer, so judging by it is repeatable.
    """

    subject: str
    data: bytes
    seq: int
    published_us: int
    reply: str


class OrderedConsumer:
    """A durable pull consumer that delivers in stream order and acknowledges whole batches.

    It has one owner at a time. What was delivered and not acknowledged comes again, from the
    first such message on: handlers must bear repetition, and never see a gap.
    """

    def __init__(
        self,
        nc: Client,
        stream: str,
        durable: str,
        subject: str = EVERYTHING,
        batch: int = 1_000,
        linger_s: float = 0.0,
        from_now: bool = False,
    ) -> None:
        """Ask for nothing yet.

        Args:
            subject: One filter, for the server goes through a stream at a tenth of the speed and
                less with two (docs/adr/0004).
            batch: Messages to ask for at once; a batch has twice as many at most.
            linger_s: See `batches`.
            from_now: One that is not there yet begins with the next message, not the first.
        """
        self._nc = nc
        self._js = nc.jetstream()
        self._stream = stream
        self._durable = durable
        self._subject = subject
        self._batch = batch
        self._linger_s = linger_s
        self._from_now = from_now
        self._listening: Subscription | None = None
        self._buffer: list[Msg] = []
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._outstanding = 0
        self._expected = 1
        self._inbox = ""

    async def start(self, after: int | None = None) -> None:
        """Listen from where the last owner stopped.

        Args:
            after: Or from behind this sequence: of an owner that keeps its place itself. A stream
                that has not come to it is another one by now, and read from its beginning.
        """
        self._inbox = self._nc.new_inbox()
        self._listening = await self._nc.subscribe(
            self._inbox, cb=self._receive, pending_msgs_limit=-1
        )
        if after is not None:
            last = (await self._js.stream_info(self._stream)).state.last_seq
            await self._restart(after if after <= last else 0)
            return
        try:
            info = await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            await self._create(start=None)
            return
        asked = info.config.filter_subject if info.config else None
        if info.num_ack_pending or asked != self._subject:
            await self._restart(await self.floor())
        else:
            self._expected = _sequence(info.delivered, "consumer_seq") + 1

    async def batches(self) -> AsyncIterator[list[Delivered]]:
        """Yield what has arrived, at least one message at a time, for ever.

        With `linger_s`, wait that long after the first message for more, up to a full batch.
        """
        while True:
            await self._wait()
            if self._buffer and self._linger_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._linger_s)
            messages, self._buffer = self._buffer, []
            self._full.clear()
            delivered = await self._in_order(messages)
            if delivered:
                yield delivered

    async def _wait(self) -> None:
        """Have messages requested, and wait for some to arrive."""
        await self._pull()
        if self._buffer:  # came while the last batch was handled
            return
        self._arrived.clear()
        try:
            await asyncio.wait_for(self._arrived.wait(), _PULL_EXPIRES_S + _GRACE_S)
        except TimeoutError:
            # Not even that the request is over: it was lost with a connection. Ask again.
            self._outstanding = 0

    async def ack(self, last: Delivered) -> None:
        """Acknowledge a batch by its last message. A lost acknowledgement costs a repetition."""
        await self._nc.publish(last.reply, b"+ACK")

    async def floor(self) -> int:
        """Sequence up to which all is acknowledged; 0 of a consumer that is not there yet."""
        try:
            info = await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            return 0
        return _sequence(info.ack_floor, "stream_seq")

    async def forget(self) -> None:
        """Give up the place in the stream, and listen no more."""
        if self._listening is not None:
            await self._listening.unsubscribe()
            self._listening = None
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._durable)

    async def lag(self) -> int:
        """Messages of ours in the stream that are not acknowledged yet."""
        info = await self._js.consumer_info(self._stream, self._durable)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def _receive(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status:
            # A request ended; if it does not say how much of it is left, all have.
            left = int(headers.get(_LEFT, self._outstanding))
            self._outstanding = max(self._outstanding - left, 0)
        else:
            self._outstanding -= 1
            self._buffer.append(message)
        if len(self._buffer) >= self._batch:
            self._full.set()
        elif status in (None, _EXPIRED):
            # Not only when a batch is done: the server would stand still while one is handled.
            await self._pull()
        self._arrived.set()

    async def _pull(self) -> None:
        """Keep between half and one batch requested: two batches are the most that wait here."""
        if self._outstanding > self._batch // 2:
            return
        wanted = self._batch - max(self._outstanding, 0)
        request = {"batch": wanted, "expires": int(_PULL_EXPIRES_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        self._outstanding += wanted
        await self._nc.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def _in_order(self, messages: list[Msg]) -> list[Delivered]:
        """The messages, or none and a restart where a delivery is missing among them."""
        delivered = []
        for message in messages:
            seq, delivery, nanoseconds = _place(message.reply)
            if delivery != self._expected:
                log.warning("%s: a delivery is missing, starting again", self._durable)
                await self._restart(await self.floor())
                return []
            self._expected += 1
            published_us = nanoseconds // 1_000
            delivered.append(
                Delivered(message.subject, message.data, seq, published_us, message.reply)
            )
        return delivered

    async def _restart(self, after: int) -> None:
        """Put a fresh consumer behind a message."""
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._durable)
        await self._create(start=after + 1)

    async def _create(self, start: int | None) -> None:
        # A consumer of the same name forgets nothing that we need: handlers bear repetition, so
        # dying between deletion and creation costs a pass over the stream, not an event.
        self._buffer.clear()
        self._full.clear()
        self._outstanding = 0
        self._expected = 1
        anew = api.DeliverPolicy.NEW if self._from_now else api.DeliverPolicy.ALL
        by_sequence = api.DeliverPolicy.BY_START_SEQUENCE
        config = api.ConsumerConfig(
            durable_name=self._durable,
            deliver_policy=anew if start is None else by_sequence,
            opt_start_seq=start,
            ack_policy=api.AckPolicy.ALL,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=-1,
            filter_subject=self._subject,
        )
        await self._js.add_consumer(self._stream, config)


def _place(reply: str) -> tuple[int, int, int]:
    """Sequences of a message in the stream and among its consumer's deliveries, and its time, ns.

    Read off the subject that acknowledges a message, in its old form or in its new one, which has
    a domain and an account before the stream's name. The client's `metadata` says the same in five
    times the time. Source: NATS' architecture decision 15.
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == _OLD_FORM else 7
    seq, delivery, nanoseconds = tokens[first : first + 3]
    return int(seq), int(delivery), int(nanoseconds)


def _sequence(pair: api.SequenceInfo | None, name: str) -> int:
    return int(getattr(pair, name)) if pair else 0


async def consume(
    consumer: OrderedConsumer,
    handle: Callable[[list[Delivered]], Awaitable[None]],
    after: int | None = None,
) -> None:
    """Hand every batch to `handle` until it succeeds, then acknowledge it. Runs until cancelled.

    A batch that fails is tried again for as long as it takes: an engine that is away stops the
    consumer, and never loses it an event. What can't be handled at all is for `handle` to
    dead-letter.

    Args:
        after: See `OrderedConsumer.start`.
    """
    await consumer.start(after)
    async for batch in consumer.batches():
        await insist(partial(handle, batch), f"batch at seq {batch[0].seq}")
        await consumer.ack(batch[-1])


async def insist(work: Callable[[], Awaitable[T]], name: str) -> T:
    """Do something until it succeeds: an engine that is away delays it, and nothing is lost."""
    while True:
        try:
            return await work()
        except (OSError, NatsError, APIError, RedisError) as error:
            log.info("%s: %s; trying again", name, error or type(error).__name__)
            await asyncio.sleep(_RETRY_S)


async def dead_letter(
    js: JetStreamContext, subject: str, consumer: str, message: Delivered, reason: str
) -> None:
    """Put a message that no retry can mend aside, with its reason, once per consumer."""
    log.warning("seq %d on %s put aside: %s", message.seq, message.subject, reason)
    await js.publish(
        f"{subject}.{consumer}",
        message.data,
        headers={
            "Reason": " ".join(reason.split())[:500],
            "Subject": message.subject,
            "Seq": str(message.seq),
            "Nats-Msg-Id": f"{consumer}-{message.seq}",
        },
    )
