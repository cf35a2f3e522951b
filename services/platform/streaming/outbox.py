"""Outbox: what a service publishes off its hot path, kept while the stream is away.

Events wait in memory, bounded; past the bound, or while the stream does not acknowledge, they go
to a file, bounded too. Only when that is full are events dropped, counted, and said so. The file
is read back when the stream is, so an event can arrive twice: its id lets the stream drop the
second one, and readers of the lake bear it.

Where many wait, they go as one atomic batch: the stream flushes it to disk once and acknowledges it
once, and a flush is most of what an event costs. Source: NATS' architecture decision 50.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.platform.runtime.worker import end
from services.platform.telemetry import took

log = logging.getLogger(__name__)

_BATCH = 500
_ACK_TIMEOUT_S = 5.0
_RETRY_S = 0.5
_LINGER_S = 0.05
# A batch costs the server as much as some dozen events one by one, whatever is in it.
_LEAST_AT_ONCE = 16


@dataclass(slots=True)
class Outgoing:
    """An event on its way: where to, what, and the id it is known by.

    Attributes:
        queued: When it was put here, by `perf_counter`; 0 for one that waited on disk.
    """

    subject: str
    id: str
    data: bytes
    queued: float = field(default=0.0, compare=False)


class Outbox:
    """A queue in front of JetStream. `put` never waits and never raises."""

    def __init__(self, nc: Client, folder: Path, most_events: int, most_bytes: int) -> None:
        self._nc = nc
        self._js = nc.jetstream(publish_async_max_pending=_BATCH * 2)
        self._queue: deque[Outgoing] = deque()
        self._spill = Spill(folder, most_bytes)
        self._most_events = most_events
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def depth(self) -> int:
        """Events that wait, in memory and on disk."""
        return len(self._queue) + self._spill.count

    def start(self) -> None:
        """Begin publishing, the file's leftovers of an earlier life first."""
        self._task = asyncio.create_task(self._run())

    def put(self, subject: str, identity: str, data: bytes) -> None:
        """Queue an event."""
        if len(self._queue) >= self._most_events:
            self._to_file([self._queue.popleft()])
        self._queue.append(Outgoing(subject, identity, data, perf_counter()))
        self._wake.set()

    async def close(self) -> None:
        """Publish what can be published now; keep the rest on disk."""
        if self._task is not None:
            await end(self._task)
        while self._queue and self._nc.is_connected:
            if not await self._flush():
                break
        self._to_file(list(self._queue))
        self._queue.clear()

    async def _run(self) -> None:
        while True:
            if not self._queue and not self._spill.count:
                self._wake.clear()
                await self._wake.wait()
            # Nobody waits for an event: some together cost less than one by one.
            await asyncio.sleep(_LINGER_S)
            if not self._nc.is_connected or not await self._flush() or not await self._unspill():
                # Nothing piles up in memory while the stream is away.
                self._to_file(list(self._queue))
                self._queue.clear()
                await asyncio.sleep(_RETRY_S)

    async def _flush(self) -> bool:
        """Publish a batch from memory. False if the stream did not take all of it."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        try:
            failed = await self._publish(batch)
        except asyncio.CancelledError:
            self._to_file(batch)
            raise
        if not failed:
            took(("publish", perf_counter() - event.queued) for event in batch)
        self._to_file(failed)
        return not failed

    async def _unspill(self) -> bool:
        """Publish the file, a batch at a time. False if the stream went away in between."""
        while self._spill.count:
            if await self._publish(self._spill.peek(_BATCH)):
                return False
            self._spill.confirm()
        return True

    async def _publish(self, batch: list[Outgoing]) -> list[Outgoing]:
        """Publish and wait for acknowledgements. Returns what was not acknowledged."""
        if len(batch) < _LEAST_AT_ONCE:
            return await self._one_by_one(batch)
        try:
            refused = await self._at_once(batch)
        except (NatsError, OSError) as error:
            log.warning("outbox: %s", error or type(error).__name__)
            return batch
        if refused:
            # One of them is known, say: its acknowledgement was lost, and it came again.
            log.info("outbox: %s; one by one, then", refused)
            return await self._one_by_one(batch)
        return []

    async def _at_once(self, batch: list[Outgoing]) -> str:
        """Publish all or nothing. Returns why the stream refused, empty if it took them.

        Raises:
            nats.errors.Error, OSError: it is away, or did not answer in time.
        """
        identity = uuid4().hex
        for number, event in enumerate(batch[:-1], start=1):
            await self._nc.publish(
                event.subject, event.data, headers=_headers(event, identity, number)
            )
        last = batch[-1]
        headers = {**_headers(last, identity, len(batch)), "Nats-Batch-Commit": "1"}
        answer = await self._nc.request(last.subject, last.data, _ACK_TIMEOUT_S, headers=headers)
        told = orjson.loads(answer.data)
        return str(told["error"]["description"]) if "error" in told else ""

    async def _one_by_one(self, batch: list[Outgoing]) -> list[Outgoing]:
        acks = []
        try:
            for event in batch:
                headers = {"Nats-Msg-Id": event.id}
                acks.append(
                    await self._js.publish_async(event.subject, event.data, headers=headers)
                )
            done, _ = await asyncio.wait(acks, timeout=_ACK_TIMEOUT_S) if acks else (set(), set())
        except (NatsError, OSError) as error:
            log.warning("outbox: %s", error or type(error).__name__)
            done = {ack for ack in acks if ack.done()}
        failed = [
            event
            for event, ack in zip(batch, acks, strict=False)
            if ack not in done or ack.cancelled() or ack.exception() is not None
        ]
        failed += batch[len(acks) :]
        return failed

    def _to_file(self, events: list[Outgoing]) -> None:
        lost = self._spill.append(events)
        if lost:
            self.dropped += lost
            log.error("outbox: its file is full, %d decisions dropped so far", self.dropped)


def _headers(event: Outgoing, batch: str, number: int) -> dict[str, str]:
    return {
        "Nats-Msg-Id": event.id,
        "Nats-Batch-Id": batch,
        "Nats-Batch-Sequence": str(number),
    }


class Spill:
    """A bounded file of events: appended to at its end, read from its start, emptied when read.

    What was read is only passed over once `confirm` says that it arrived.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "outbox.jsonl"
        self._most = most_bytes
        self._path.touch()
        self._size = self._path.stat().st_size
        with self._path.open("rb") as file:
            self.count = sum(1 for _ in file)
        self._confirmed = 0
        self._pending = 0, 0

    def append(self, events: list[Outgoing]) -> int:
        """Add events as long as they fit. Returns how many did not."""
        if not events:
            return 0
        lines = []
        for event in events:
            line = orjson.dumps([event.subject, event.id, event.data.decode()]) + b"\n"
            if self._size + len(line) > self._most:
                break
            self._size += len(line)
            lines.append(line)
        with self._path.open("ab") as file:
            file.writelines(lines)
        self.count += len(lines)
        return len(events) - len(lines)

    def peek(self, size: int) -> list[Outgoing]:
        """The next events, `size` at the most, none once all were confirmed."""
        with self._path.open("rb") as file:
            file.seek(self._confirmed)
            lines = list(islice(file, size))
        self._pending = len(lines), sum(map(len, lines))
        return [event for line in lines if (event := _event(line))]

    def confirm(self) -> None:
        """Pass over what was peeked at last; empty the file once all of it is."""
        lines, size = self._pending
        self._pending = 0, 0
        self._confirmed += size
        self.count -= lines
        if self._confirmed == self._size:
            self._path.write_bytes(b"")
            self._size = self._confirmed = 0


def _event(line: bytes) -> Outgoing | None:
    """One line as an event; None for one that a crash cut short."""
    try:
        subject, identity, data = orjson.loads(line)
    except ValueError:
        return None
    return Outgoing(subject, identity, data.encode())
