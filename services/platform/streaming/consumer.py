"""A durable JetStream consumer that preserves stream order.

State is aggregated in stream order, and a plain durable consumer loses that order when something
fails: messages in flight to a dead client are redelivered only after the acknowledgement times out,
behind newer ones. `OrderedConsumer` instead restarts behind the last acknowledged message whenever
a delivery is missing.

A durable consumer that is deleted while its worker runs is made again behind what was
acknowledged.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from services.platform.streaming.retry import retry_forever

log = logging.getLogger(__name__)

_PULL_EXPIRES_S, _GRACE_S = 2.0, 1.0
ACK_WAIT_S = 30.0
# Within this, the server has counted what waits for a new consumer.
_COUNTING_S = 0.1
_POLL_S = 0.2
# Pause after a request that the server refused; it would refuse the next one, too.
_REFUSED_S = 0.5
# A command that deletes a durable on purpose ends its owner within this time.
_DELETED_S = 5.0
# Status of a pull request that expired before its messages were delivered.
_EXPIRED = "408"
# Header of such a status: messages of the request that were not delivered.
_UNDELIVERED = "Nats-Pending-Messages"
# $JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<delivery>.<time>.<pending>
_SHORT_ACK_TOKENS = 9

ALL_SUBJECTS = ">"


class StreamMissing(RuntimeError):
    """NATS does not have the stream."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"NATS has no stream {stream}: `whiteboard up` makes it")


@dataclass(frozen=True)
class Message:
    """One message of a stream.

    Attributes:
        subject: Subject it was published on.
        data: Its payload.
        seq: Sequence in the stream.
        published_us: When the stream stored it, microseconds since the epoch. Unlike a reader's
            clock it is the same for every consumer, so decisions based on it are repeatable.
        reply: Subject that acknowledges it.
    """

    subject: str
    data: bytes
    seq: int
    published_us: int
    reply: str


class OrderedConsumer:
    """A durable pull consumer that delivers in stream order and acknowledges whole batches.

    It has one owner at a time. Delivery repeats from the first unacknowledged message: handlers
    must be idempotent, and never see a gap.
    """

    def __init__(
        self,
        nc: Client,
        stream: str,
        durable: str,
        subject: str = ALL_SUBJECTS,
        batch: int = 1_000,
        max_wait_s: float = 0.0,
        new_only: bool = False,
        first_after: int = 0,
        ack_wait_s: float = ACK_WAIT_S,
    ) -> None:
        """Request nothing yet.

        Args:
            subject: One filter: with two, the server reads a stream at a tenth of the speed or less
                (docs/adr/0004).
            batch: Messages per pull request; a batch has at most twice as many.
            max_wait_s: How long `batches` waits for more messages, seconds.
            new_only: A new consumer begins with the next message instead of the first.
            first_after: A new consumer begins behind this sequence, if the stream reaches it.
            ack_wait_s: After this, what is not acknowledged is delivered again, seconds.
        """
        self._nc = nc
        self._js = nc.jetstream()
        self._stream = stream
        self._durable = durable
        self._subject = subject
        self._batch = batch
        self._max_wait_s = max_wait_s
        self._new_only = new_only
        self._first_after = first_after
        self._ack_wait_s = ack_wait_s
        self._subscription: Subscription | None = None
        self._buffer: list[Msg] = []
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._outstanding = 0
        self._expected = 1
        self._inbox = ""
        # Sequence up to which all is acknowledged, as far as this process knows.
        self._floor = 0
        # The status with which the server refused a request; empty once that was dealt with.
        self._refusal = ""

    async def start(self, after: int | None = None) -> bool:
        """Subscribe, from where the last owner stopped.

        Args:
            after: Start behind this sequence instead, for an owner with a checkpoint of its own. A
                stream that does not reach it is a new one, and is read from its beginning.

        Returns:
            Whether the stream reaches `after`; true without it.

        Raises:
            StreamMissing: there is no such stream.
        """
        self._inbox = self._nc.new_inbox()
        self._subscription = await self._nc.subscribe(
            self._inbox, cb=self._receive, pending_msgs_limit=-1
        )
        if after is not None:
            last = await self._last_seq()
            await self.restart(after if after <= last else 0)
            return after <= last
        try:
            info = await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            begins_later = self._first_after and self._first_after <= await self._last_seq()
            await self._create(start=self._first_after + 1 if begins_later else None)
            return True
        self._floor = _sequence(info.ack_floor, "stream_seq")
        subject = info.config.filter_subject if info.config else None
        if info.num_ack_pending or subject != self._subject:
            await self.restart(await self.ack_floor())
        else:
            self._expected = _sequence(info.delivered, "consumer_seq") + 1
        return True

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield the messages that have arrived, at least one at a time. Never ends.

        With `max_wait_s`, it waits that long after the first message for more, up to a full batch.

        Raises:
            StreamMissing: the stream was deleted.
        """
        while True:
            await self._wait()
            if self._buffer and self._max_wait_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._max_wait_s):
                        await self._full.wait()
            messages, self._buffer = self._buffer, []
            self._full.clear()
            delivered = await self._in_order(messages)
            if delivered:
                yield delivered

    async def _wait(self) -> None:
        """Request messages, and wait for some to arrive."""
        if self._refusal:
            await self._recover()
        await self._pull()
        if self._buffer:  # arrived while the last batch was handled
            return
        self._arrived.clear()
        try:
            async with asyncio.timeout(_PULL_EXPIRES_S + _GRACE_S):
                await self._arrived.wait()
        except TimeoutError:
            # Not even the request's expiry arrived: it was lost with a connection. Request again.
            self._outstanding = 0

    async def _recover(self) -> None:
        """Wait after a refused request, and make the consumer again if it was deleted."""
        log.info("%s: NATS refused a request: %s", self._durable, self._refusal)
        self._refusal = ""
        for pause in (_REFUSED_S, _DELETED_S):
            await asyncio.sleep(pause)
            if await retry_forever(self._exists, self._durable):
                return
        await retry_forever(self._make_again, self._durable)

    async def _exists(self) -> bool:
        try:
            await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            return False
        return True

    async def _make_again(self) -> None:
        """Create the deleted consumer behind what was acknowledged; of a new stream, from 1."""
        after = self._floor if self._floor <= await self._last_seq() else 0
        log.warning("%s was deleted: it is made again behind seq %d", self._durable, after)
        await self.restart(after)

    async def ack(self, last: Message) -> None:
        """Acknowledge a batch by its last message; if that is lost, the batch is redelivered."""
        await self._nc.publish(last.reply, b"+ACK")
        self._floor = last.seq

    async def ack_floor(self) -> int:
        """Sequence up to which all is acknowledged; 0 if the consumer does not exist yet."""
        try:
            info = await self._js.consumer_info(self._stream, self._durable)
        except NotFoundError:
            return 0
        return _sequence(info.ack_floor, "stream_seq")

    async def stop(self) -> None:
        """Unsubscribe; the durable consumer keeps its position in the stream."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def delete(self) -> None:
        """Unsubscribe, and delete the durable consumer with its position in the stream."""
        await self.stop()
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._durable)

    async def restart(self, after: int) -> None:
        """Replace the durable consumer by one that starts behind a sequence."""
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._durable)
        await self._create(start=after + 1)

    async def lag(self) -> int:
        """As `unacknowledged`."""
        return await unacknowledged(self._js, self._stream, self._durable)

    async def _receive(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status:
            # A request ended; without the header, none of its messages were delivered.
            undelivered = int(headers.get(_UNDELIVERED, self._outstanding))
            self._outstanding = max(self._outstanding - undelivered, 0)
            if status != _EXPIRED:
                description = " ".join(headers.get(api.Header.DESCRIPTION, "").split())
                self._refusal = f"{status} {description}"
        else:
            self._outstanding -= 1
            self._buffer.append(message)
        if len(self._buffer) >= self._batch:
            self._full.set()
        elif status in (None, _EXPIRED):
            # Here too, or the server would be idle while a batch is handled.
            await self._pull()
        self._arrived.set()

    async def _pull(self) -> None:
        """Keep between half and one batch requested, so at most two batches are buffered."""
        if self._outstanding > self._batch // 2:
            return
        wanted = self._batch - max(self._outstanding, 0)
        request = {"batch": wanted, "expires": int(_PULL_EXPIRES_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        self._outstanding += wanted
        await self._nc.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def _in_order(self, messages: list[Msg]) -> list[Message]:
        """The messages; none, and a restart, if a delivery among them is missing."""
        delivered = []
        for message in messages:
            made, delivery = read_message(message)
            if delivery != self._expected:
                log.warning("%s: a delivery is missing, restarting the consumer", self._durable)
                await self.restart(await self.ack_floor())
                return []
            self._expected += 1
            delivered.append(made)
        return delivered

    async def _last_seq(self) -> int:
        try:
            return (await self._js.stream_info(self._stream)).state.last_seq
        except NotFoundError:
            raise StreamMissing(self._stream) from None

    async def _create(self, start: int | None) -> None:
        # Handlers are idempotent, so a crash between deletion and creation costs a pass over the
        # stream and loses no event.
        self._buffer.clear()
        self._full.clear()
        self._outstanding = 0
        self._expected = 1
        try:
            info = await self._js.add_consumer(self._stream, self._config(start))
        except NotFoundError:
            raise StreamMissing(self._stream) from None
        self._floor = _sequence(info.ack_floor, "stream_seq")
        self._refusal = ""  # of the consumer before

    def _config(self, start: int | None) -> api.ConsumerConfig:
        new_consumer = api.DeliverPolicy.NEW if self._new_only else api.DeliverPolicy.ALL
        by_sequence = api.DeliverPolicy.BY_START_SEQUENCE
        return api.ConsumerConfig(
            durable_name=self._durable,
            deliver_policy=new_consumer if start is None else by_sequence,
            opt_start_seq=start,
            ack_policy=api.AckPolicy.ALL,
            ack_wait=self._ack_wait_s,
            max_ack_pending=-1,
            filter_subject=self._subject,
        )


async def unacknowledged(js: JetStreamContext, stream: str, durable: str) -> int:
    """Messages on a consumer's subject that are not acknowledged yet.

    nats-server shows a new consumer before it has counted what waits for it, with 0 (1 in 200
    answers while one is made, 2026-11-29). So a 0 before the first delivery is asked for again.

    Raises:
        NotFoundError: there is no such consumer.
    """
    info = await js.consumer_info(stream, durable)
    if not info.num_pending and not _sequence(info.delivered, "consumer_seq"):
        await asyncio.sleep(_COUNTING_S)
        info = await js.consumer_info(stream, durable)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def acknowledged_deliveries(js: JetStreamContext, stream: str, durable: str) -> int:
    """How many deliveries of an ordered consumer are acknowledged; 0 without the consumer."""
    try:
        info = await js.consumer_info(stream, durable)
    except NotFoundError:
        return 0
    return _sequence(info.ack_floor, "consumer_seq")


async def wait_until_acknowledged(
    js: JetStreamContext, durables: Iterable[tuple[str, str]], timeout_s: float
) -> bool:
    """Wait until consumers have acknowledged what their streams hold now; what comes later may not.

    Args:
        durables: Stream and name of consumers of all subjects.

    Returns:
        False if they have not within `timeout_s` seconds.
    """
    last = {one: (await js.stream_info(one[0])).state.last_seq for one in durables}
    end = time.monotonic() + timeout_s
    for (stream, durable), seq in last.items():
        while not await _has_acknowledged(js, stream, durable, seq):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_POLL_S)
    return True


async def _has_acknowledged(js: JetStreamContext, stream: str, durable: str, seq: int) -> bool:
    try:
        floor = (await js.consumer_info(stream, durable)).ack_floor
        if floor is not None and _sequence(floor, "stream_seq") >= seq:
            return True
        return not await unacknowledged(js, stream, durable)
    except NotFoundError:
        return False


def read_message(message: Msg) -> tuple[Message, int]:
    """A message of the client as ours, and the sequence of its delivery."""
    seq, delivery, nanoseconds = _parse_ack_subject(message.reply)
    published_us = nanoseconds // 1_000
    return Message(message.subject, message.data, seq, published_us, message.reply), delivery


def _parse_ack_subject(reply: str) -> tuple[int, int, int]:
    """(sequence in the stream, sequence of the delivery, time in ns) of a message.

    Parsed from the subject that acknowledges it, in the short form or in the newer one with a
    domain and an account before the stream's name. The client's `metadata` takes five times as
    long. Source: NATS' architecture decision 15.

    >>> _parse_ack_subject("$JS.ACK.FRAUD.features.2.17.9.1764135000123456789.40")
    (17, 9, 1764135000123456789)
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == _SHORT_ACK_TOKENS else 7
    seq, delivery, nanoseconds = tokens[first : first + 3]
    return int(seq), int(delivery), int(nanoseconds)


def _sequence(pair: api.SequenceInfo | None, name: str) -> int:
    return int(getattr(pair, name)) if pair else 0


async def consume(
    consumer: OrderedConsumer,
    handle: Callable[[list[Message]], Awaitable[None]],
    after: int | None = None,
    retry_on: tuple[type[Exception], ...] = (),
    may_ack: Callable[[], bool] = lambda: True,
) -> None:
    """Pass every batch to `handle` until it succeeds, then acknowledge it. Runs until cancelled.

    A failed batch is retried without limit: an unavailable engine stops the consumer and loses no
    event. `handle` must dead-letter what no retry can repair.

    Args:
        after: See `OrderedConsumer.start`.
        retry_on: See `retry_forever`.
        may_ack: Whether the last batch may be acknowledged, asked after `handle`: a later start
            begins at the first that was not.
    """
    await consumer.start(after)
    async for batch in consumer.batches():
        await retry_forever(partial(handle, batch), f"batch at seq {batch[0].seq}", retry_on)
        if may_ack():
            await consumer.ack(batch[-1])


async def dead_letter(
    js: JetStreamContext, subject: str, consumer: str, message: Message, reason: str
) -> None:
    """Publish a message that no retry can repair, with the reason, once per consumer."""
    log.warning("seq %d on %s dead-lettered: %s", message.seq, message.subject, reason)
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
