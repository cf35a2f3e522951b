"""Reads and writes the rows of a Redis Cluster's shards, for the worker that owns them.

The rows of a shard lie in one slot, and so does the shard's fence: a copy of what the worker's
record says (`features.online.row_store.Fence`). The worker that takes shards over writes their
fences first, and from then on no other process' transaction on them succeeds.

A shard that could not be read or written is blocked: the worker folds nothing into it any more. It
must not acknowledge what it folds into the others then, and has to start again, from the first
event that is not acknowledged, once `is_mended`: rows that have an event are not changed by it.

A shard whose fence is gone, though its worker has noted that it had one, has lost its rows with it:
its node came back empty. It stays blocked until its rows are made anew.

A write counts once the replicas have it too (WAIT), or a master that dies would take acknowledged
events with it. Source: https://redis.io/docs/latest/commands/wait/.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError, WatchError

from features.cluster.link import ClusterLink
from features.cluster.shards import hash_tag, tagged_shard
from features.online.layout import RowLayout
from features.online.replies import RowKeys, count_row_error, decode_all, is_wrong_type
from features.online.row_store import Fence, RowsLost, RowStore
from features.redis_connection import Command, RedisConnection
from features.spec import Key, View
from services.platform.types import Floats

log = logging.getLogger(__name__)

_WAIT_MS = 1_000

# What the commands of one shard are.
_Shards = dict[int, list[Command]]


class ClusterRowStore:
    """As `features.online.row_store.RowStore`, of the shards of a cluster.

    Attributes:
        blocked: Shards that could not be read or written since they were claimed.
    """

    def __init__(
        self, link: ClusterLink, views: Sequence[View], fence: Fence | None = None
    ) -> None:
        self._link = link
        self._layouts = {view.name: RowLayout.of(view, link.shards) for view in views}
        self._fence = fence
        self._known: frozenset[int] = frozenset()
        self._claimed: list[int] = []
        # By shard, up to which sequence this process has written its rows.
        self._positions: dict[int, int] = {}
        self.blocked: set[int] = set()

    def row_keys(self, keys: Mapping[str, Sequence[Key]]) -> RowKeys:
        """By state name, the Redis keys of its K entities."""
        return {name: list(map(self._layouts[name].key, found)) for name, found in keys.items()}

    async def claim(self, shards: Iterable[int], known: frozenset[int] = frozenset()) -> list[int]:
        """Make the fences of shards this worker's; those that could not be written are blocked.

        Args:
            known: Shards that have a fence unless their rows are lost.

        Returns:
            Those that are not blocked.
        """
        wanted = list(shards)
        self._known = known
        errors = await asyncio.gather(*map(self._claim, wanted))
        self.blocked = set()
        for shard, error in zip(wanted, errors, strict=True):
            if error is not None:
                self._block(shard, error)
        self._claimed = [shard for shard in wanted if shard not in self.blocked]
        self._positions = {}
        return self._claimed

    async def is_mended(self) -> bool:
        """Whether one of the blocked shards can be written again; it stays blocked."""
        errors = await asyncio.gather(*map(self._claim, self.blocked))
        return any(error is None for error in errors)

    async def read(self, row_keys: RowKeys) -> dict[str, Floats]:
        """By state name, (K, width) rows: zeros for entities without events.

        NaN for a row under another hash, and for one that was not read, which `write` leaves as
        they are.

        Raises:
            OSError: no node of the cluster answers.
        """
        layouts = self._layouts
        commands = [c for name, keys in row_keys.items() for c in layouts[name].read_commands(keys)]
        replies = await self._link.results(commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                self._block(_shard_of(command), reply)
        return decode_all(layouts, row_keys, replies)

    async def write(
        self, row_keys: RowKeys, rows: Mapping[str, Floats], position: int | None = None
    ) -> None:
        """Write rows (K, width) back after `read`; rows without events are left out.

        Args:
            position: All events up to this sequence are in them, see `Fence`: noted with each
                shard, also with those that have no such event. None: as before.

        Raises:
            Superseded: a shard is another process's now.
            redis.WatchError: its fence has changed. Read again.
        """
        shards: _Shards = {} if position is None else {shard: [] for shard in self._claimed}
        for name, keys in row_keys.items():
            for command in self._layouts[name].write_commands(keys, rows[name]):
                shards.setdefault(_shard_of(command), []).append(command)
        nodes: dict[RedisConnection, tuple[int, list[int]]] = {}
        for shard in shards:
            if shard in self.blocked:
                continue
            try:
                connection, replicas = await self._link.connection(hash_tag(shard))
                nodes.setdefault(connection, (replicas, []))[1].append(shard)
            except OSError as error:
                self._block(shard, error)
        writes = (self._write(c, n, mine, shards, position) for c, (n, mine) in nodes.items())
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _write(
        self,
        connection: RedisConnection,
        replicas: int,
        mine: list[int],
        shards: _Shards,
        position: int | None,
    ) -> None:
        """Write a node's shards, one after another: a connection watches one fence at a time."""
        written = []
        for shard in mine:
            try:
                before = self._positions.get(shard, 0)
                store = RowStore(connection, [], self._fence_of(shard), before)
                await store.execute(shards[shard], position)
                written.append(shard)
                self._positions[shard] = before if position is None else position
            except WatchError:
                raise
            except RowsLost:
                self._block(shard, ResponseError("LOST rows that its node had acknowledged"))
            except (OSError, RedisError) as error:
                self._block(shard, error)
        try:
            await _wait_for(connection, replicas if written else 0)
        except (OSError, RedisError) as error:
            for shard in written:
                self._block(shard, error)

    async def _claim(self, shard: int) -> Exception | None:
        """Write the fence of a shard. Returns why it could not be."""
        try:
            connection, replicas = await self._link.connection(hash_tag(shard))
            fence = self._fence_of(shard)
            if fence is None:
                return None
            if shard in self._known:
                [exists] = await connection.execute([("EXISTS", fence.key)])
                if not exists:
                    raise ResponseError("LOST its rows are gone: run `whiteboard rebuild fraud`")
            values = [v for field, value in fence.fields.items() if value for v in (field, value)]
            none = [field for field, value in fence.fields.items() if value is None]
            commands: list[Command] = [("HDEL", fence.key, *none)] if none else []
            commands.append(("HSET", fence.key, *values))
            await connection.execute(commands)
            await _wait_for(connection, replicas)
        except (OSError, RedisError) as error:
            self._link.refresh_soon()
            return error
        return None

    def _fence_of(self, shard: int) -> Fence | None:
        if self._fence is None:
            return None
        tag = hash_tag(shard).decode()
        key, field = self._fence.position
        return Fence(f"{tag}{self._fence.key}", self._fence.fields, (f"{tag}{key}", field))

    def _block(self, shard: int, error: Exception) -> None:
        if shard not in self.blocked:
            log.warning("shard %d waits: %s", shard, str(error) or type(error).__name__)
            count_row_error(error)
        self.blocked.add(shard)
        self._link.refresh_soon()


async def _wait_for(connection: RedisConnection, replicas: int) -> None:
    """Wait until the replicas have what was written by a connection.

    Raises:
        redis.ResponseError: they do not. An OSError: the node is away.
    """
    if not replicas:
        return
    [reached] = await connection.execute([("WAIT", str(replicas), str(_WAIT_MS))])
    if reached < replicas:
        raise ResponseError(f"WAIT {reached} of {replicas} replicas have what was written")


def _shard_of(command: Command) -> int:
    key: Any = command[1]
    return tagged_shard(key)
