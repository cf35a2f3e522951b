"""One connection to Redis that all requests of a process share.

A pool hands each request a connection of its own and packs its commands anew; on a path of a
millisecond that is most of it. Here the commands of requests that overlap go down one socket in the
order they were asked, and the answers come back in that order, which is what Redis promises
(https://redis.io/docs/latest/develop/use/pipelining/). hiredis packs and parses.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url
from redis.exceptions import ResponseError

Command = tuple[bytes | str, ...]
PATIENCE_S = 5.0
_READ_FIRST_S = 0.001


@dataclass
class _Asked:
    """Answers that are on their way to one asker."""

    answer: asyncio.Future[list[Any]]
    wanted: int
    end: float
    got: list[Any] = field(default_factory=list)


class _Wire(asyncio.Protocol):
    """Matches answers to askers, in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._asked: deque[_Asked] = deque()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._watch_at = math.inf

    @property
    def up(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (value := self._reader.gets()) is not False:
            self._take(value)

    def connection_lost(self, exc: Exception | None) -> None:
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(ConnectionError("redis went away"))
        self._asked.clear()

    def ask(self, packed: bytes, wanted: int, patience_s: float) -> asyncio.Future[list[Any]]:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("redis is away")
        loop = asyncio.get_running_loop()
        asked = _Asked(loop.create_future(), wanted, loop.time() + patience_s)
        self._asked.append(asked)
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(packed)
        if self._watch_at > asked.end:
            self._look_at(asked.end)
        return asked.answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        """Send what was asked in this turn of the loop at once: one system call for all."""
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _due(self) -> None:
        """Somebody's time is up, but a loop that was held up runs timers before it reads."""
        self._watch = asyncio.get_running_loop().call_later(_READ_FIRST_S, self._give_up)

    def _give_up(self) -> None:
        """Tell those who waited long enough; one timer for all of them, not one a request."""
        loop = asyncio.get_running_loop()
        waiting = [asked for asked in self._asked if not asked.answer.done()]
        late = [asked for asked in waiting if asked.end <= loop.time()]
        for asked in late:
            asked.answer.set_exception(TimeoutError("redis does not answer in time"))
        self._watch, self._watch_at = None, math.inf
        if ends := [asked.end for asked in waiting if not asked.answer.done()]:
            self._look_at(min(ends))

    def _look_at(self, end: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        # Kept beside the timer: of one that is due already, uvloop makes a handle without `when`.
        self._watch_at = end
        self._watch = asyncio.get_running_loop().call_at(end, self._due)

    def _take(self, value: Any) -> None:
        asked = self._asked[0]
        asked.got.append(value)
        if len(asked.got) == asked.wanted:
            self._asked.popleft()
            # Whoever waited has given up or gone; the answer still had to be taken.
            if not asked.answer.done():
                asked.answer.set_result(asked.got)


class RedisLink:
    """A shared connection. It opens when it is first asked or told to, and again when it was lost.

    TLS and sockets come by URL, as redis-py reads it.
    """

    def __init__(self, url: str) -> None:
        self._where: dict[str, Any] = dict(parse_url(url))
        self._wire = _Wire()
        self._opening = asyncio.Lock()

    async def ask(self, commands: Sequence[Command], patience_s: float = PATIENCE_S) -> list[Any]:
        """Answers to some commands, in one round trip; an error that Redis answers is raised.

        Raises:
            TimeoutError: no answer within `patience_s`.
            OSError: Redis is away, or went away.
            redis.ResponseError: it refused a command.
        """
        if not commands:
            return []
        if not self._wire.up:
            async with asyncio.timeout(patience_s):
                await self.open()
        packed = b"".join(map(hiredis.pack_command, commands))
        found = await self._wire.ask(packed, len(commands), patience_s)
        for value in found:
            if isinstance(value, hiredis.ReplyError):
                raise ResponseError(str(value))
        return found

    async def open(self) -> None:
        """Connect now. OSError if nobody answers, redis.ResponseError if we are turned away."""
        async with self._opening:
            if self._wire.up:
                return
            loop = asyncio.get_running_loop()
            if path := self._where.get("path"):
                _, wire = await loop.create_unix_connection(_Wire, path)
            else:
                host, port = self._where.get("host", "localhost"), self._where.get("port", 6379)
                tls = "connection_class" in self._where or None
                _, wire = await loop.create_connection(_Wire, host, port, ssl=tls)
            await self._introduce(wire)
            self._wire = wire

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    async def _introduce(self, wire: _Wire) -> None:
        hello: list[Command] = []
        if password := self._where.get("password"):
            user = self._where.get("username")
            hello.append(("AUTH", user, password) if user else ("AUTH", password))
        if database := self._where.get("db"):
            hello.append(("SELECT", str(database)))
        if not hello:
            return
        packed = b"".join(map(hiredis.pack_command, hello))
        answers = await wire.ask(packed, len(hello), PATIENCE_S)
        for value in answers:
            if isinstance(value, hiredis.ReplyError):
                wire.close()
                raise ResponseError(str(value))
