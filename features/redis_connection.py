"""One Redis connection that all requests of a process share.

A connection pool gives each request a connection of its own and packs its commands in Python; on a
path of a millisecond that is most of the time. Here overlapping requests send their commands over
one socket, and Redis replies in the order in which it received them
(https://redis.io/docs/latest/develop/use/pipelining/). hiredis packs and parses.

A timeout counts the time that Redis had, not that of a busy event loop. With some dozens of
requests in one turn of the loop, a turn lasts longer than the timeout of a request: the commands
of the first are sent at the end of the turn, and its reply is read a turn later. Hence the clock
starts once the commands are sent, and a reply that has arrived is read before a call times out.
"""

import asyncio
import math
import select
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import parse_url
from redis.exceptions import ResponseError

Command = tuple[bytes | str, ...]
TIMEOUT_S = 5.0
# How long calls that are overdue wait while there is something to read; a reply takes one turn of
# the loop, and only a stream of replies to others takes longer.
_MAX_UNREAD_S = 0.010
_READ_TURN_S = 0.001


@dataclass
class _Pending:
    """The replies to one call of `execute`.

    Attributes:
        future: Receives the replies.
        expected: Number of replies.
        timeout_s: How long to wait for them, seconds.
        deadline: When the call times out, monotonic seconds; infinite until it is sent.
        replies: Those received so far.
    """

    future: asyncio.Future[list[Any]]
    expected: int
    timeout_s: float
    deadline: float = math.inf
    replies: list[Any] = field(default_factory=list)


class _Protocol(asyncio.Protocol):
    """Matches replies to calls, in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._pending: deque[_Pending] = deque()
        self._transport: asyncio.Transport | None = None
        self._write_buffer: list[bytes] = []
        self._unsent: list[_Pending] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._unread_since = math.inf

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not subclass asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:
            self._deliver(value)

    def connection_lost(self, exc: Exception | None) -> None:
        for pending in self._pending:
            if not pending.future.done():
                pending.future.set_exception(ConnectionError("the connection to redis was lost"))
        self._pending.clear()

    def execute(self, packed: bytes, expected: int, timeout_s: float) -> asyncio.Future[list[Any]]:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("redis is not connected")
        loop = asyncio.get_running_loop()
        pending = _Pending(loop.create_future(), expected, timeout_s)
        self._pending.append(pending)
        if not self._write_buffer:
            loop.call_soon(self._flush)
        self._write_buffer.append(packed)
        self._unsent.append(pending)
        return pending.future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        """Send all commands of this turn of the event loop in one system call."""
        if self._transport is not None:
            self._transport.write(b"".join(self._write_buffer))
        self._write_buffer.clear()
        # uvloop sends at the end of the turn.
        sent, self._unsent = self._unsent, []
        asyncio.get_running_loop().call_soon(self._start_clock, sent)

    def _start_clock(self, sent: list[_Pending]) -> None:
        """Start the timeouts of calls whose commands were sent."""
        # Not the loop's time, which uvloop reads once a turn.
        now = monotonic()
        for pending in sent:
            pending.deadline = now + pending.timeout_s
        self._set_timer(min(pending.deadline for pending in sent))

    def _expire(self) -> None:
        """Time out the overdue calls, after what has arrived was read; all calls share a timer."""
        now = monotonic()
        self._timer, self._timer_at = None, math.inf
        waiting = [pending for pending in self._pending if not pending.future.done()]
        overdue = [pending for pending in waiting if pending.deadline <= now]
        if overdue and self._has_unread(now):
            self._set_timer(now + _READ_TURN_S)
            return
        self._unread_since = math.inf
        for pending in overdue:
            pending.future.set_exception(TimeoutError("redis does not answer in time"))
        self._set_timer(min((p.deadline for p in waiting if not p.future.done()), default=math.inf))

    def _has_unread(self, now: float) -> bool:
        """Whether replies have arrived that the loop has not read, for `_MAX_UNREAD_S` at most."""
        if self._transport is None or now - self._unread_since > _MAX_UNREAD_S:
            return False
        self._unread_since = min(self._unread_since, now)
        arrived = select.poll()
        arrived.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(arrived.poll(0))

    def _set_timer(self, deadline: float) -> None:
        """Have `_expire` called at a time, unless it will be earlier."""
        if self._timer_at <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        # Stored separately: for a timer that is already due, uvloop's handle has no `when`.
        self._timer_at = deadline
        delay = max(deadline - monotonic(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _deliver(self, value: Any) -> None:
        pending = self._pending[0]
        pending.replies.append(value)
        if len(pending.replies) == pending.expected:
            self._pending.popleft()
            # Replies to a call that timed out or was cancelled are read and dropped.
            if not pending.future.done():
                pending.future.set_result(pending.replies)


class RedisLink(Protocol):
    """What reads the online store: a connection to one Redis, or to the nodes of a cluster.

    Attributes:
        shards: In a cluster, the shards by which an entity's rows lie; 0 in one Redis.
    """

    shards: int

    @property
    def nodes(self) -> list["RedisConnection"]:
        """The connections to every node that answers."""

    @property
    def away(self) -> list[str]:
        """The nodes of a cluster that do not answer, as host:port."""

    async def open(self) -> None:
        """Connect now. Raises OSError or redis.RedisError."""

    async def execute(self, commands: Sequence[Command], timeout_s: float = TIMEOUT_S) -> list[Any]:
        """Replies to the commands. Raises OSError or redis.RedisError where one has none."""

    async def results(self, commands: Sequence[Command], timeout_s: float = TIMEOUT_S) -> list[Any]:
        """Replies to the commands, with exceptions among them for those that have none."""

    def close(self) -> None:
        """Close the connections."""


class RedisConnection:
    """A shared connection. It opens at the first call or by `open`, and again after a loss.

    The URL may name TLS or a Unix socket, as for redis-py.

    Attributes:
        session: Number of the connection, counted from 1.
        shards: 0: rows lie in one Redis, see `RedisLink`.
    """

    shards = 0

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        self._protocol = _Protocol()
        self._opening = asyncio.Lock()
        self.session = 0

    @property
    def nodes(self) -> list["RedisConnection"]:
        """The connection itself: one Redis is all of the store."""
        return [self]

    @property
    def away(self) -> list[str]:
        """None: where this Redis does not answer, calls raise."""
        return []

    async def execute(
        self,
        commands: Sequence[Command],
        timeout_s: float = TIMEOUT_S,
        session: int | None = None,
    ) -> list[Any]:
        """As `results`, but a refused command raises.

        Raises:
            TimeoutError: no reply within `timeout_s`.
            OSError: Redis is unavailable, or the connection was lost.
            redis.ResponseError: Redis refused a command.
        """
        replies = await self.results(commands, timeout_s, session)
        for value in replies:
            if isinstance(value, hiredis.ReplyError):
                raise ResponseError(str(value))
        return replies

    async def results(
        self,
        commands: Sequence[Command],
        timeout_s: float = TIMEOUT_S,
        session: int | None = None,
    ) -> list[Any]:
        """Replies to the commands, in one round trip; hiredis.ReplyError for a refused one.

        Args:
            timeout_s: How long to wait for the connection and for the replies, seconds each.
            session: Only while the connection is still this one, as a WATCH ends with it.

        Raises:
            TimeoutError: no reply within `timeout_s`.
            OSError: Redis is unavailable, or the connection was lost.
        """
        if not commands:
            return []
        if session not in (None, self.session):
            raise ConnectionError("the connection to redis was lost")
        if session is None and not self._protocol.connected:
            async with asyncio.timeout(timeout_s):
                await self.open()
        packed = b"".join(map(hiredis.pack_command, commands))
        return await self._protocol.execute(packed, len(commands), timeout_s)

    async def open(self) -> None:
        """Connect now. OSError: Redis is unavailable. redis.ResponseError: wrong credentials."""
        async with self._opening:
            if self._protocol.connected:
                return
            loop = asyncio.get_running_loop()
            if path := self._options.get("path"):
                _, protocol = await loop.create_unix_connection(_Protocol, path)
            else:
                host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
                tls = "connection_class" in self._options or None
                _, protocol = await loop.create_connection(_Protocol, host, port, ssl=tls)
            try:
                await self._authenticate(protocol)
            except BaseException:
                protocol.close()
                raise
            self._protocol = protocol
            self.session += 1

    def close(self) -> None:
        """Close the connection."""
        self._protocol.close()

    async def _authenticate(self, protocol: _Protocol) -> None:
        """Send the password and choose the database, where the URL names them."""
        commands: list[Command] = []
        if password := self._options.get("password"):
            user = self._options.get("username")
            commands.append(("AUTH", user, password) if user else ("AUTH", password))
        if database := self._options.get("db"):
            commands.append(("SELECT", str(database)))
        if not commands:
            return
        packed = b"".join(map(hiredis.pack_command, commands))
        replies = await protocol.execute(packed, len(commands), TIMEOUT_S)
        for value in replies:
            if isinstance(value, hiredis.ReplyError):
                raise ResponseError(str(value))
