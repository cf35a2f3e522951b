"""The hot paths to Redis: read the states that a request needs, write the folded states back.

Both use the layout of Feast's Redis online store, computed once per state, so that a request costs
one round trip and no protobuf: a row's value is a fixed header and the raw float64s. Feast's
`get_online_features` reads what this module writes and the reverse; contract tests check it.
(https://docs.feast.dev/reference/online-stores/redis, entity key version 3.)

A row ends with the hash of its view, as a field of the protobuf message that Feast does not know
and therefore skips (https://protobuf.dev/programming-guides/proto3/#unknowns). One value holds
both, so a row and its hash are always consistent. A row under another hash is left out wherever it
is read: it becomes a row of NaN, as if it had not been read, and is counted. A row without a hash
was written before rows had one, or by Feast; it counts as one of `View.first_hash`.

In a cluster a key begins with the hash tag of its shard, and Feast's own reader finds no row there.
"""

import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import mmh3
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from hiredis import ReplyError
from prometheus_client import Counter
from redis import Redis
from redis.exceptions import ResponseError, WatchError

from features.cluster.shards import hash_tag, shard_number
from features.redis_connection import TIMEOUT_S, Command, RedisConnection, RedisLink
from features.spec import SEQ, TIME, Key, View
from services.platform.telemetry import count_left_out
from services.platform.types import Floats

PROJECT = "whiteboard"
# By state name, the Redis keys of its K entities.
RowKeys = dict[str, list[bytes]]

T = TypeVar("T")

_PAGE = 10_000
# Rows in a transaction, which Redis does not interrupt: 2 ms at 3.8 us a row (2026-11-28).
_IN_TRANSACTION = 500
_MANY = 128  # from this many rows on, numpy is faster at decoding than Python
_PROJECT = PROJECT.encode()
_STRING = struct.pack("<I", 2)  # feast.types.Value.proto: ValueType.STRING
_length, _length_of = struct.Struct("<I").pack, struct.Struct("<I").unpack_from
_DOUBLE_LIST_TAG = b"\x7a"  # Value.double_list_val = 15, length-delimited
_DOUBLE = np.dtype("<f8")
_PACKED_TAG = b"\x0a"  # DoubleList.val = 1, packed
_HASH_FIELD = 2047  # a number that Value.proto does not use, fixed64
_WRONG_TYPE = "WRONGTYPE"

ROW_ERRORS = Counter(
    "online_row_errors_total", "Rows of the online store that were not read or written", ["reason"]
)


def count_row_error(error: Exception) -> None:
    """Count a row that was not read or written, by why: WRONGTYPE, OOM, MOVED, timeout, away."""
    if isinstance(error, ReplyError | ResponseError):
        reason = str(error).partition(" ")[0].lower()
    else:
        reason = "timeout" if isinstance(error, TimeoutError) else "away"
    ROW_ERRORS.labels(reason).inc()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sized(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def _literal(raw: bytes) -> bytes:
    """A Redis glob pattern that matches exactly these bytes."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in raw)


@dataclass(frozen=True)
class RowLayout:
    """The Redis keys, hash fields and encoding of one view's rows.

    Attributes:
        view: The accumulator or embedding stored.
        prefix: First part of every key: the number and names of the join keys.
        order: Indices of the view's keys in the sorted order in which Feast stores them.
        field: Hash field of the row.
        time_field: Hash field of the row's time.
        header: Bytes before the raw float64s.
        trailer: Bytes behind them: the hash of the view.
        begin: Where the float64s begin.
        end: Where they end.
        size: Bytes of a value.
        absent: Value of an entity without events, which is not stored.
        zeros: Its float64s.
        unread: Float64s of a row under another hash: NaN.
        sharding: Index of the view's key whose shard the rows lie in.
        tags: In a cluster, the hash tag of each shard; none in one Redis.
    """

    view: View
    prefix: bytes
    order: tuple[int, ...]
    field: bytes
    time_field: bytes
    header: bytes
    trailer: bytes
    begin: int
    end: int
    size: int
    absent: bytes
    zeros: bytes
    unread: bytes
    sharding: int
    tags: tuple[bytes, ...]

    @classmethod
    def of(cls, view: View, shards: int = 0) -> "RowLayout":
        """The layout of a view.

        Args:
            shards: In a cluster, the shards by which the rows of an entity lie; 0 in one Redis.
        """
        names = sorted(view.keys)
        joined = b"".join(_STRING + _sized(name) for name in names)
        packed = _PACKED_TAG + _varint(8 * view.width)
        size = len(packed) + 8 * view.width
        header = _DOUBLE_LIST_TAG + _varint(size) + packed
        trailer = _varint(_HASH_FIELD << 3 | 1) + bytes.fromhex(view.hash)
        zeros = bytes(8 * view.width)
        return cls(
            view=view,
            prefix=struct.pack("<I", len(names)) + joined,
            order=tuple(view.keys.index(name) for name in names),
            field=struct.pack("<I", mmh3.hash(f"{view.name}:{view.name}", signed=False)),
            time_field=f"_ts:{view.name}".encode(),
            header=header,
            trailer=trailer,
            begin=len(header),
            end=len(header + zeros),
            size=len(header + zeros + trailer),
            absent=header + zeros + trailer,
            zeros=zeros,
            unread=np.full(view.width, np.nan, _DOUBLE).tobytes(),
            sharding=view.keys.index(view.shard) if shards else 0,
            tags=tuple(map(hash_tag, range(shards))),
        )

    def key(self, values: Sequence[str]) -> bytes:
        """Redis key of an entity, given its keys in the order of `View.keys`."""
        parts = [self.prefix]
        for i in self.order:
            raw = values[i].encode()
            parts += (_STRING, _length(len(raw)), raw)
        parts.append(_PROJECT)
        if self.tags:
            parts.insert(0, self.tags[shard_number(values[self.sharding], len(self.tags))])
        return b"".join(parts)

    def entity(self, key: bytes) -> Key:
        """The keys of an entity, in the order of `View.keys`, from its Redis key."""
        parts, begin = [""] * len(self.order), self._tag_size(key) + len(self.prefix)
        for i in self.order:
            begin += len(_STRING)
            (size,) = _length_of(key, begin)
            begin += 4
            parts[i] = key[begin : begin + size].decode()
            begin += size
        return tuple(parts)

    def holds(self, key: bytes) -> bool:
        """Whether a Redis key is of an entity of this view."""
        return key.startswith(self.prefix, self._tag_size(key)) and key.endswith(_PROJECT)

    @property
    def pattern(self) -> bytes:
        """Redis glob pattern of the keys of the view's entities."""
        tag = b"{*}" if self.tags else b""
        return tag + _literal(self.prefix) + b"*" + _PROJECT

    def _tag_size(self, key: bytes) -> int:
        """Bytes of a key's hash tag."""
        return key.find(b"}") + 1 if self.tags else 0

    def is_first(self, raw: bytes) -> bool:
        """Whether a stored value has no hash and is of this view's declaration nevertheless."""
        return len(raw) == self.end and self.view.hash == self.view.first_hash

    def values(self, rows: Floats) -> list[bytes]:
        """The stored bytes of K rows (K, width)."""
        stored = np.empty((len(rows), self.size), np.uint8)
        stored[:] = np.frombuffer(self.absent, np.uint8)
        stored[:, self.begin : self.end] = np.ascontiguousarray(rows, _DOUBLE).view(np.uint8)
        packed = stored.tobytes()
        return [packed[at : at + self.size] for at in range(0, len(packed), self.size)]

    def read_commands(self, keys: Sequence[bytes]) -> list[Command]:
        """Redis commands that read the rows of K Redis keys."""
        return [("HGET", key, self.field) for key in keys]

    def write_commands(self, keys: Sequence[bytes], rows: Floats) -> list[Command]:
        """Redis commands that write K rows (K, width).

        Rows without events are left out, and rows that were not read, whose sequence is NaN.
        """
        # Lists, since reading a number from an array costs ten times as much as from a list.
        seqs, times = rows[:, SEQ].tolist(), rows[:, TIME].tolist()
        return [
            ("HSET", key, self.field, value, self.time_field, _timestamp(time))
            for key, value, seq, time in zip(keys, self.values(rows), seqs, times, strict=True)
            if seq > 0
        ]

    def decode(self, raws: Sequence[bytes | None]) -> Floats:
        """Decode K stored values to rows (K, width).

        Returns:
            Zeros where there is no value, NaN where it is under another hash.
        """
        if len(raws) >= _MANY and (found := self._decode_many(raws)) is not None:
            return found
        begin, end, trailer = self.begin, self.end, self.trailer
        packed = bytearray().join(
            [
                raw[begin:end]
                if raw is not None and raw[end:] == trailer
                else self._without_hash(raw)
                for raw in raws
            ]
        )
        return np.frombuffer(packed, _DOUBLE).reshape(len(raws), self.view.width)

    def _decode_many(self, raws: Sequence[bytes | None]) -> Floats | None:
        """`decode` by numpy, which compares all hashes at once; None if one differs."""
        packed = bytearray().join([self.absent if raw is None else raw for raw in raws])
        if len(packed) != len(raws) * self.size:
            return None
        found = np.frombuffer(packed, np.uint8).reshape(len(raws), self.size)
        frame = np.hstack([found[:, : self.begin], found[:, self.end :]])
        if not (frame == np.frombuffer(self.header + self.trailer, np.uint8)).all():
            return None
        return np.ascontiguousarray(found[:, self.begin : self.end]).view(_DOUBLE)

    def _without_hash(self, raw: bytes | None) -> bytes:
        """The float64s of a value that is absent, has no hash, or has another one."""
        if raw is None:
            return self.zeros
        if self.is_first(raw):
            return raw[self.begin :]
        count_left_out(self.view.name)
        return self.unread


def _pages(keys: Iterable[T]) -> Iterator[list[T]]:
    """Keys in lists of `_PAGE`, a round trip each."""
    source = iter(keys)
    while page := list(islice(source, _PAGE)):
        yield page


def _timestamp(seconds: float) -> bytes:
    nanos = round(seconds * 1e6) * 1_000
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9).SerializeToString()


class OnlineReader:
    """Reads the rows that one request needs, in one round trip."""

    def __init__(self, redis: RedisLink, views: Sequence[View]) -> None:
        self._redis = redis
        self._layouts = [RowLayout.of(view, redis.shards) for view in views]

    def __len__(self) -> int:
        """Number of views, and of rows that `read` returns at best."""
        return len(self._layouts)

    async def read(
        self, keys: Mapping[str, str | None], timeout_s: float = TIMEOUT_S
    ) -> dict[str, Floats]:
        """By view name, (1, width): zeros for an entity without events.

        NaN for a null key, and for a row under another hash. A row that is not read has no entry,
        and is counted: its key is of another type, or its node in a cluster does not answer.

        Args:
            keys: By entity, the request's key, None where absent.
            timeout_s: How long to wait for Redis, seconds.

        Raises:
            redis.RedisError, OSError: Redis is unavailable, or did not answer within `timeout_s`.
        """
        requested = []
        commands: list[Command] = []
        rows = {}
        for layout in self._layouts:
            key = [v for k in layout.view.keys if (v := keys[k]) is not None]
            if len(key) == len(layout.view.keys):
                commands.append(("HGET", layout.key(key), layout.field))
                requested.append(layout)
            else:
                rows[layout.view.name] = np.full((1, layout.view.width), np.nan)
        replies = await self._redis.results(commands, timeout_s)
        for layout, raw in zip(requested, replies, strict=True):
            if isinstance(raw, Exception):
                count_row_error(raw)
            else:
                rows[layout.view.name] = layout.decode((raw,))
        return rows

    async def scan(self, count: int) -> AsyncIterator[dict[str, list[tuple[Key, Floats]]]]:
        """All stored rows, in no order: by view name, keys and rows (1, width), a page at a time.

        Rows under another hash are left out. SCAN may return a row twice.

        Args:
            count: Redis keys a page.

        Raises:
            redis.RedisError, OSError: Redis is unavailable.
        """
        await self._redis.open()
        for node in self._redis.nodes:
            cursor = b"0"
            while True:
                [[cursor, keys]] = await node.execute([("SCAN", cursor, "COUNT", str(count))])
                yield await self._page(node, keys)
                if cursor == b"0":
                    break

    async def _page(
        self, node: RedisConnection, keys: list[bytes]
    ) -> dict[str, list[tuple[Key, Floats]]]:
        """The rows of some Redis keys of a node."""
        found = {layout: [k for k in keys if layout.holds(k)] for layout in self._layouts}
        commands = [c for layout, held in found.items() for c in layout.read_commands(held)]
        raws = iter(await node.results(commands))
        return {
            layout.view.name: [
                (layout.entity(key), layout.decode((raw,)))
                for key, raw in zip(held, islice(raws, len(held)), strict=True)
                if isinstance(raw, bytes) and raw[layout.end :] == layout.trailer
            ]
            for layout, held in found.items()
        }


def is_wrong_type(reply: Any) -> bool:
    """Whether a reply says that a key holds no row but a value of another type."""
    return isinstance(reply, Exception) and str(reply).startswith(_WRONG_TYPE)


def decode_all(
    layouts: Mapping[str, RowLayout], row_keys: RowKeys, replies: Sequence[Any]
) -> dict[str, Floats]:
    """By state name, the rows (K, width) of replies in the order of the keys.

    NaN where the reply is an exception, which is counted.
    """
    found = iter(replies)
    rows = {}
    for name, keys in row_keys.items():
        raws = list(islice(found, len(keys)))
        unread = [at for at, raw in enumerate(raws) if isinstance(raw, Exception)]
        for at in unread:
            count_row_error(raws[at])
            raws[at] = None
        rows[name] = layouts[name].decode(raws)
        if unread:
            rows[name] = rows[name].copy()
            rows[name][unread] = np.nan
    return rows


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


class OnlineTable:
    """The rows of one view in Redis, in bulk and blocking: for backfills and tests."""

    def __init__(self, redis: Redis, view: View) -> None:
        self._redis = redis
        # A client of a cluster says by how many shards: see `features.cluster.clients`.
        self._layout = RowLayout.of(view, getattr(redis, "shards", 0))

    def load(self, keys: Sequence[Key]) -> Floats:
        """(K, width) rows of K entities, as `decode_all`. Raises redis.RedisError."""
        name, found = self._layout.view.name, self._redis_keys(keys)
        replies = self._execute(self._layout.read_commands(found))
        return decode_all({name: self._layout}, {name: found}, replies)[name]

    def store(self, keys: Sequence[Key], rows: Floats) -> None:
        """Write rows (K, width); rows without events are left out. Raises redis.RedisError.

        A key of another type is replaced.
        """
        commands = self._layout.write_commands(self._redis_keys(keys), rows)
        replies = self._execute(commands)
        wrong = [c for c, reply in zip(commands, replies, strict=True) if is_wrong_type(reply)]
        if wrong:
            self._execute([("DEL", command[1]) for command in wrong])
            self._execute(wrong)

    def entities(self) -> Iterator[Key]:
        """Keys of the entities that have a row, under whatever hash. Raises redis.RedisError."""
        for page in _pages(self._redis.scan_iter(self._layout.pattern, count=_PAGE)):
            held = self._execute([("HEXISTS", key, self._layout.field) for key in page])
            yield from (
                self._layout.entity(key)
                for key, has_row in zip(page, held, strict=True)
                if has_row and not is_wrong_type(has_row)
            )

    def delete(self, keys: Iterable[Key]) -> None:
        """Delete the rows of some entities. Raises redis.RedisError."""
        fields = self._layout.field, self._layout.time_field
        for page in _pages(map(self._layout.key, keys)):
            self._execute([("HDEL", key, *fields) for key in page])

    def clear(self) -> None:
        """Delete all rows of the view. Raises redis.RedisError."""
        self.delete(self.entities())

    def is_first(self) -> bool | None:
        """Whether a row without a hash can be read; None if there is no row at all.

        One row is looked at: the rows of a view were written by one declaration until then.
        """
        for key in self.entities():
            [raw] = self._execute(self._layout.read_commands([self._layout.key(key)]))
            return isinstance(raw, bytes) and self._layout.is_first(raw)
        return None

    def _redis_keys(self, keys: Sequence[Key]) -> list[bytes]:
        return list(map(self._layout.key, keys))

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        """Replies, an exception for each key of another type. Raises redis.RedisError."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies = pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return replies
