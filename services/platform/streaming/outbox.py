"""Outbox: events that a service publishes off its hot path, kept while the stream is unavailable.

Events wait in memory, up to a limit; past it, or while the stream does not acknowledge, they are
written to a file, which is limited too. Only when the file is full, or can't be written while the
memory is full, are events dropped, counted and logged. The file is published when the stream is
back, so an event can arrive twice: within two minutes the stream drops the second one by its id
(`DUPLICATE_WINDOW`), later it is stored again, and readers of the lake deduplicate.

Many waiting events are published as one atomic batch: the stream flushes and acknowledges it once,
and a flush is most of the cost of an event. Source: NATS' architecture decision 50.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.spill_file import OutboxEvent, SpillFile
from services.platform.telemetry import PUBLISH_STAGE, observe_stages

log = logging.getLogger(__name__)

_BATCH = 500
_ACK_TIMEOUT_S = 5.0
_RETRY_S = 0.5
_MAX_WAIT_S = 0.05
# An atomic batch of any size costs the server as much as about a dozen single events.
_MIN_ATOMIC_EVENTS = 16
# Drops repeat while their cause lasts; one line in this time is enough.
_LOG_S = 10.0
# What a process that ends may take to publish its file.
_CLOSE_S = 5.0


class Outbox:
    """A queue in front of JetStream. `put` never waits for the stream and never raises.

    It writes to the file, synchronously, only once `max_events` wait in memory.

    Attributes:
        dropped: Events dropped because the file was full or could not be written.
    """

    def __init__(self, nc: Client, folder: Path, max_events: int, max_bytes: int) -> None:
        self._nc = nc
        self._js = nc.jetstream(publish_async_max_pending=_BATCH * 2)
        self._queue: deque[OutboxEvent] = deque()
        self._spill = SpillFile(folder, max_bytes)
        self._max_events = max_events
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self._logged = -_LOG_S

    @property
    def depth(self) -> int:
        """Events waiting in memory and in the file."""
        return len(self._queue) + self._spill.count

    @property
    def spilled(self) -> int:
        """Events waiting in the file."""
        return self._spill.count

    def start(self) -> None:
        """Start publishing, beginning with events the file kept from an earlier run."""
        self._task = asyncio.create_task(self._run())

    def put(self, subject: str, event_id: str, data: bytes) -> None:
        """Queue an event."""
        if len(self._queue) >= self._max_events:
            self._spill_events([self._queue.popleft()], keep=False)
        self._queue.append(OutboxEvent(subject, event_id, data, perf_counter()))
        self._wake.set()

    def adopt(self, events: list[OutboxEvent]) -> None:
        """Publish events of another process's file. OSError if this one's can't be written."""
        self._count_dropped(self._spill.append(events), "the file is full")
        self._wake.set()

    async def close(self) -> None:
        """Publish what the stream takes now, of the file for a few seconds; keep the rest in it."""
        if self._task is not None:
            await cancel_tasks(self._task)
        while self._queue and self._nc.is_connected:
            if not await self._flush():
                break
        else:
            with suppress(OSError):  # of the file; a TimeoutError is one, too
                async with asyncio.timeout(_CLOSE_S):
                    while self._spill.count and self._nc.is_connected:
                        if not await self._unspill():
                            break
        self._spill_memory(keep=False)

    async def _run(self) -> None:
        while True:
            if not self._queue and not self._spill.count:
                self._wake.clear()
                await self._wake.wait()
            # Events are not urgent, and several together cost less than one by one.
            await asyncio.sleep(_MAX_WAIT_S)
            if not await self._publish_waiting():
                self._spill_memory()
                await asyncio.sleep(_RETRY_S)

    async def _publish_waiting(self) -> bool:
        """Publish from memory, then the file. False if the stream or the file is unavailable."""
        try:
            return self._nc.is_connected and await self._flush() and await self._unspill()
        except OSError as error:
            self._log(f"the file can't be read: {error}")
            return False

    async def _flush(self) -> bool:
        """Publish a batch from memory. False if the stream did not acknowledge all of it."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        try:
            failed = await self._publish(batch)
        except asyncio.CancelledError:
            self._spill_events(batch)
            raise
        if not failed:
            observe_stages((PUBLISH_STAGE, perf_counter() - event.queued) for event in batch)
        self._spill_events(failed)
        return not failed

    async def _unspill(self) -> bool:
        """Publish the file, a batch at a time. False if the stream became unavailable."""
        while self._spill.count:
            if await self._publish(self._spill.peek(_BATCH)):
                return False
            self._spill.confirm()
        return True

    async def _publish(self, batch: list[OutboxEvent]) -> list[OutboxEvent]:
        """Publish and wait for acknowledgements. Returns the unacknowledged events."""
        if len(batch) < _MIN_ATOMIC_EVENTS:
            return await self._publish_singly(batch)
        try:
            refused = await self._publish_atomically(batch)
        except (NatsError, OSError) as error:
            log.warning("outbox: %s", str(error) or type(error).__name__)
            return batch
        if refused:
            # For example a duplicate: an event whose acknowledgement was lost.
            log.info("outbox: batch refused, publishing singly: %s", refused)
            return await self._publish_singly(batch)
        return []

    async def _publish_atomically(self, batch: list[OutboxEvent]) -> str:
        """Publish all or none. Returns the reason of a refusal, empty if the batch was stored.

        Raises:
            nats.errors.Error, OSError: the stream is unavailable, or did not answer in time.
        """
        batch_id = uuid4().hex
        for number, event in enumerate(batch[:-1], start=1):
            await self._nc.publish(
                event.subject, event.data, headers=_headers(event, batch_id, number)
            )
        last = batch[-1]
        headers = {**_headers(last, batch_id, len(batch)), "Nats-Batch-Commit": "1"}
        answer = await self._nc.request(last.subject, last.data, _ACK_TIMEOUT_S, headers=headers)
        reply = orjson.loads(answer.data)
        return str(reply["error"]["description"]) if "error" in reply else ""

    async def _publish_singly(self, batch: list[OutboxEvent]) -> list[OutboxEvent]:
        acks = []
        try:
            for event in batch:
                headers = {"Nats-Msg-Id": event.id}
                acks.append(
                    await self._js.publish_async(event.subject, event.data, headers=headers)
                )
            done, _ = await asyncio.wait(acks, timeout=_ACK_TIMEOUT_S) if acks else (set(), set())
        except (NatsError, OSError) as error:
            log.warning("outbox: %s", str(error) or type(error).__name__)
            done = {ack for ack in acks if ack.done()}
        failed = [
            event
            for event, ack in zip(batch, acks, strict=False)
            if ack not in done or ack.cancelled() or ack.exception() is not None
        ]
        failed += batch[len(acks) :]
        return failed

    def _spill_memory(self, keep: bool = True) -> None:
        """Empty the memory, as while the stream is unavailable. Arguments as of `_spill_events`."""
        events = list(self._queue)
        self._queue.clear()
        self._spill_events(events, keep)

    def _spill_events(self, events: list[OutboxEvent], keep: bool = True) -> None:
        """Write events to the file; those that do not fit are dropped.

        Args:
            keep: Where the file can't be written, keep as many in memory as there is room for.
        """
        try:
            self._count_dropped(self._spill.append(events), "the file is full")
        except OSError as error:
            room = self._max_events - len(self._queue) if keep else 0
            dropped = max(len(events) - room, 0)
            self._queue.extendleft(reversed(events[dropped:]))
            self._log(f"the file can't be written: {error}")
            self._count_dropped(dropped, "the file can't be written")

    def _count_dropped(self, dropped: int, reason: str) -> None:
        if dropped:
            self.dropped += dropped
            self._log(f"{reason}, {self.dropped} decisions dropped so far")

    def _log(self, text: str) -> None:
        """Log an error, at most one in `_LOG_S` seconds."""
        now = perf_counter()
        if now - self._logged >= _LOG_S:
            self._logged = now
            log.error("outbox: %s", text)


def _headers(event: OutboxEvent, batch_id: str, number: int) -> dict[str, str]:
    return {
        "Nats-Msg-Id": event.id,
        "Nats-Batch-Id": batch_id,
        "Nats-Batch-Sequence": str(number),
    }
