"""Many rows of several states, read and written by the feature worker that owns them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import ReplyError
from redis.exceptions import ResponseError, WatchError

from features.online.layout import RowLayout
from features.online.replies import RowKeys, decode_all, is_wrong_type
from features.redis_connection import Command, RedisConnection
from features.spec import Key, View
from services.platform.types import Floats

# Rows in a transaction, which Redis does not interrupt: 2 ms at 3.8 us a row (2026-11-28).
_IN_TRANSACTION = 500


class Superseded(Exception):
    """Another process owns the rows now; nothing was written."""


class RowsLost(Exception):
    """Redis has lost rows that it had acknowledged; nothing was written since."""


@dataclass(frozen=True)
class Fence:
    """What must hold while rows are written: fields of a Redis hash, compared as bytes.

    Attributes:
        key: The hash.
        fields: By field, its value; None: it has none.
        position: Another hash and its field, with the sequence up to which rows were written. It
            is written with them, so it tells what Redis still has of them.
    """

    key: str
    fields: Mapping[str, bytes | None]
    position: tuple[str, str]

    @property
    def commands(self) -> list[Command]:
        """Commands after which a transaction fails if the hash changes."""
        return [("WATCH", self.key), ("HMGET", self.key, *self.fields), ("HGET", *self.position)]

    def check(self, replies: Sequence[Any]) -> int:
        """Check the replies to `commands`. Returns the position.

        Raises:
            Superseded: it does not hold. redis.ResponseError: a command was refused.
        """
        for reply in replies[:3]:
            if isinstance(reply, ReplyError):
                raise ResponseError(str(reply))
        if list(replies[1]) != list(self.fields.values()):
            raise Superseded
        return int(replies[2] or 0)


class RowStore:
    """Reads and writes many rows of several states, for the worker that owns them.

    With a fence, rows are written only while it holds, however late a write arrives: what is read
    begins with WATCH, what is written is a transaction
    (https://redis.io/docs/latest/develop/using-commands/transactions/). Each read also finds out
    whether Redis still has the rows of the write before: killed while a flush of its file is slow,
    it loses up to two seconds of what it acknowledged
    (https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/).
    """

    def __init__(
        self,
        redis: RedisConnection,
        views: Sequence[View],
        fence: Fence | None = None,
        position: int = 0,
    ) -> None:
        """Read nothing yet.

        Args:
            position: Up to which sequence this process has written the rows.
        """
        self._redis = redis
        self._layouts = {view.name: RowLayout.of(view) for view in views}
        self._fence = fence
        self._session = 0
        self._position = position

    def row_keys(self, keys: Mapping[str, Sequence[Key]]) -> RowKeys:
        """By state name, the Redis keys of its K entities."""
        return {name: list(map(self._layouts[name].key, found)) for name, found in keys.items()}

    async def read(self, row_keys: RowKeys) -> dict[str, Floats]:
        """By state name, (K, width) rows: zeros for entities without events.

        NaN for a row under another hash or of another type, which `write` leaves as it is.

        Raises:
            Superseded: the fence does not hold.
            RowsLost: Redis does not have what `write` wrote last. The next call reads what it has.
            redis.RedisError, OSError: Redis is unavailable.
        """
        layouts = self._layouts
        commands = [c for name, keys in row_keys.items() for c in layouts[name].read_commands(keys)]
        replies = await self._watched(commands) if commands or self._fence else []
        for reply in replies:
            if isinstance(reply, ReplyError) and not is_wrong_type(reply):
                raise ResponseError(str(reply))
        return decode_all(layouts, row_keys, replies)

    async def write(
        self, row_keys: RowKeys, rows: Mapping[str, Floats], position: int | None = None
    ) -> None:
        """Write rows (K, width) back after `read`; rows without events are left out.

        Args:
            position: All events up to this sequence are in them, see `Fence`; None: as before.

        Raises:
            Superseded: the fence does not hold.
            redis.WatchError: its hash has changed. Read again.
            redis.RedisError, OSError: Redis is unavailable.
        """
        commands = [
            command
            for name, keys in row_keys.items()
            for command in self._layouts[name].write_commands(keys, rows[name])
        ]
        await self.execute(commands, position, watched=True)

    async def execute(
        self, commands: list[Command], position: int | None = None, watched: bool = False
    ) -> None:
        """Execute commands, which write, while the fence holds. Raises as `write` and `read` do.

        Args:
            position: See `write`.
            watched: Whether `read` has set the fence just now.
        """
        if self._fence is None:
            await self._redis.execute(commands)
            return
        if position is not None:
            commands.append(("HSET", *self._fence.position, str(position)))
        for begin in range(0, len(commands), _IN_TRANSACTION):
            if begin or not watched:
                await self._watched([])
            part = commands[begin : begin + _IN_TRANSACTION]
            await self._transact(part)
        if position is not None:
            self._position = position

    async def _watched(self, commands: list[Command]) -> list[Any]:
        """Replies to commands, with the fence set before them."""
        if self._fence is None:
            return await self._redis.results(commands)
        before = self._fence.commands
        replies = await self._redis.results([*before, *commands])
        self._session = self._redis.session
        position = self._fence.check(replies)
        if position < self._position:
            self._position = position
            raise RowsLost
        return replies[len(before) :]

    async def _transact(self, commands: list[Command]) -> None:
        # On another connection than the one that watches, it would be unconditional.
        replies = await self._redis.execute(
            [("MULTI",), *commands, ("EXEC",)], session=self._session
        )
        if replies[-1] is None:
            raise WatchError("the record of the feature workers has changed")
        for reply in replies[-1]:
            if isinstance(reply, ReplyError):
                raise ResponseError(str(reply))
