"""A durable JetStream consumer that several processes share: each message goes to one of them.

For work in which a message depends on no other, such as inspecting an image. Two owners of one
`OrderedConsumer` restart it without end: each sees the other's deliveries as gaps.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.consumer import Message, OrderedConsumer, read_message

# After this, what a killed process had is delivered to another.
_ACK_WAIT_S = 10.0


class SharedConsumer(OrderedConsumer):
    """As an ordered consumer, but with any number of owners, and in no order.

    Each message is acknowledged by itself. One whose owner is silent for too long is delivered
    again, to any owner: handlers must be idempotent.
    """

    def __init__(
        self, nc: Client, stream: str, durable: str, subject: str, batch: int, before: str
    ) -> None:
        """Request nothing yet.

        Args:
            before: Durable of the version with one owner: where it stopped, this one begins.
        """
        super().__init__(nc, stream, durable, subject, batch)
        self._before = before
        self._delivered: list[Message] = []

    async def start(self, after: int | None = None) -> bool:
        """Subscribe.

        Args:
            after: Must be None: a position belongs to one owner.
        """
        if after is not None:
            raise ValueError("a shared consumer has no position of its own")
        self._inbox = self._nc.new_inbox()
        self._subscription = await self._nc.subscribe(
            self._inbox, cb=self._receive, pending_msgs_limit=-1
        )
        if not await self._exists():
            await self._replace()
        return True

    async def batches(self) -> AsyncIterator[list[Message]]:
        """As an ordered consumer's; what this process has stays its own, however long it takes."""
        working = asyncio.create_task(self._keep_informed())
        try:
            async for batch in super().batches():
                yield batch
        finally:
            await cancel_tasks(working)

    async def _keep_informed(self) -> None:
        """Ask for more time before it is over, and note what all owners have acknowledged.

        Otherwise batches of a slow process are redelivered to others without end, and a consumer
        that is deleted would begin with messages that were handled long ago.
        """
        while True:
            with suppress(NatsError):  # the connection is away, and what it had is delivered again
                await self._tell_progress()
                self._floor = max(self._floor, await self.ack_floor())
            await asyncio.sleep(_ACK_WAIT_S / 3)

    async def _tell_progress(self) -> None:
        replies = [message.reply for message in (*self._delivered, *self._buffer)]
        for reply in replies:
            await self._nc.publish(reply, b"+WPI")

    async def ack(self, last: Message) -> None:
        """Acknowledge the messages of the batch that `last` ends.

        Other owners may still have earlier ones.
        """
        for message in self._delivered:
            await self._nc.publish(message.reply, b"+ACK")
        self._delivered = []

    async def _replace(self) -> None:
        """Create the durable where the one before stopped, and then delete that one.

        Another owner may do the same just now: the first creates it, and only then deletes.
        """
        old = OrderedConsumer(self._nc, self._stream, self._before)
        floor = await old.ack_floor()
        await self._create_unless_made(floor + 1 if floor else None)
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._before)

    async def restart(self, after: int) -> None:
        """Create the durable behind a sequence, unless another owner has created it."""
        await self._create_unless_made(after + 1)

    async def _create_unless_made(self, start: int | None) -> None:
        try:
            await self._create(start)
        except APIError:
            await self._js.consumer_info(self._stream, self._durable)

    async def _in_order(self, messages: list[Msg]) -> list[Message]:
        """The messages as they came: the sequences between them went to others."""
        self._delivered = [read_message(message)[0] for message in messages]
        return self._delivered

    def _config(self, start: int | None) -> api.ConsumerConfig:
        ordered = super()._config(start)
        return replace(ordered, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT_S)
