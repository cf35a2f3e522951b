"""The hot paths to Redis: read the states that a request needs, write the folded states back.

Both use the layout of Feast's Redis online store, computed once per state, so that a request costs
one round trip and no protobuf: a row's value is a fixed header and the raw float64s. Feast's
`get_online_features` reads what this module writes and the reverse; contract tests check it.
(https://docs.feast.dev/reference/online-stores/redis, entity key version 3.)
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import mmh3
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from features.redis_connection import TIMEOUT_S, Command, RedisConnection
from features.spec import SEQ, TIME, Key, View
from services.platform.types import Floats

PROJECT = "whiteboard"
# By state name, the Redis keys of its K entities.
RowKeys = dict[str, list[bytes]]

_PROJECT = PROJECT.encode()
_STRING = struct.pack("<I", 2)  # feast.types.Value.proto: ValueType.STRING
_length = struct.Struct("<I").pack
_DOUBLE_LIST_TAG = b"\x7a"  # Value.double_list_val = 15, length-delimited
_DOUBLE = np.dtype("<f8")
_PACKED_TAG = b"\x0a"  # DoubleList.val = 1, packed


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
    """

    view: View
    prefix: bytes
    order: tuple[int, ...]
    field: bytes
    time_field: bytes
    header: bytes

    @classmethod
    def of(cls, view: View) -> "RowLayout":
        """The layout of a view."""
        names = sorted(view.keys)
        joined = b"".join(_STRING + _sized(name) for name in names)
        packed = _PACKED_TAG + _varint(8 * view.width)
        size = len(packed) + 8 * view.width
        return cls(
            view=view,
            prefix=struct.pack("<I", len(names)) + joined,
            order=tuple(view.keys.index(name) for name in names),
            field=struct.pack("<I", mmh3.hash(f"{view.name}:{view.name}", signed=False)),
            time_field=f"_ts:{view.name}".encode(),
            header=_DOUBLE_LIST_TAG + _varint(size) + packed,
        )

    def key(self, values: Sequence[str]) -> bytes:
        """Redis key of an entity, given its keys in the order of `View.keys`."""
        parts = [self.prefix]
        for i in self.order:
            raw = values[i].encode()
            parts += (_STRING, _length(len(raw)), raw)
        parts.append(_PROJECT)
        return b"".join(parts)

    def value(self, row: Floats) -> bytes:
        """The stored bytes of a row (width,)."""
        return self.header + row.tobytes()

    def read_commands(self, keys: Sequence[bytes]) -> list[Command]:
        """Redis commands that read the rows of K Redis keys."""
        return [("HGET", key, self.field) for key in keys]

    def write_commands(self, keys: Sequence[bytes], rows: Floats) -> list[Command]:
        """Redis commands that write K rows (K, width); rows without events are left out."""
        # Lists, since reading a number from an array costs ten times as much as from a list.
        seqs, times = rows[:, SEQ].tolist(), rows[:, TIME].tolist()
        return [
            ("HSET", key, self.field, self.value(row), self.time_field, _timestamp(time))
            for key, row, seq, time in zip(keys, rows, seqs, times, strict=True)
            if seq > 0
        ]

    def decode(self, raws: Sequence[bytes | None]) -> Floats:
        """Decode K stored values to rows (K, width), zeros where there is none.

        Raises:
            ValueError: a row has another width, as after a change of the states.
        """
        begin, width = len(self.header), self.view.width
        for raw in raws:
            if raw is not None and len(raw) != begin + 8 * width:
                message = f"a stored row of {len(raw)} bytes does not fit"
                raise ValueError(f"{self.view.name}: {message}")
        zeros = bytes(8 * width)
        packed = bytearray().join([zeros if raw is None else raw[begin:] for raw in raws])
        return np.frombuffer(packed, _DOUBLE).reshape(len(raws), width)


def _timestamp(seconds: float) -> bytes:
    nanos = round(seconds * 1e6) * 1_000
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9).SerializeToString()


class OnlineReader:
    """Reads the rows that one request needs, in one round trip."""

    def __init__(self, redis: RedisConnection, views: Sequence[View]) -> None:
        self._redis = redis
        self._layouts = [RowLayout.of(view) for view in views]

    async def read(
        self, keys: Mapping[str, str | None], timeout_s: float = TIMEOUT_S
    ) -> dict[str, Floats]:
        """By view name, (1, width): zeros for an entity without events, NaN for a null key.

        Args:
            keys: By entity, the request's key, None where absent.
            timeout_s: How long to wait for Redis, seconds.

        Raises:
            redis.RedisError, OSError: Redis is unavailable, or did not answer within `timeout_s`.
            ValueError: a stored row does not fit its view.
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
        replies = await self._redis.execute(commands, timeout_s)
        for layout, raw in zip(requested, replies, strict=True):
            rows[layout.view.name] = layout.decode((raw,))
        return rows


class RowStore:
    """Reads and writes many rows of several states, for the worker that owns them."""

    def __init__(self, redis: RedisConnection, views: Sequence[View]) -> None:
        self._redis = redis
        self._layouts = {view.name: RowLayout.of(view) for view in views}

    def row_keys(self, keys: Mapping[str, Sequence[Key]]) -> RowKeys:
        """By state name, the Redis keys of its K entities."""
        return {name: list(map(self._layouts[name].key, found)) for name, found in keys.items()}

    async def read(self, row_keys: RowKeys) -> dict[str, Floats]:
        """By state name, (K, width) rows, zeros for entities without events.

        Raises:
            redis.RedisError, OSError: Redis is unavailable.
        """
        layouts = self._layouts
        commands = [c for name, keys in row_keys.items() for c in layouts[name].read_commands(keys)]
        replies = iter(await self._redis.execute(commands))
        return {
            name: layouts[name].decode(list(islice(replies, len(keys))))
            for name, keys in row_keys.items()
        }

    async def write(self, row_keys: RowKeys, rows: Mapping[str, Floats]) -> None:
        """Write rows (K, width) back; rows without events are left out. Raises as `read` does."""
        commands = [
            command
            for name, keys in row_keys.items()
            for command in self._layouts[name].write_commands(keys, rows[name])
        ]
        await self._redis.execute(commands)


class OnlineTable:
    """The rows of one view in Redis, in bulk and blocking: for backfills and tests."""

    def __init__(self, redis: Redis, view: View) -> None:
        self._redis = redis
        self._layout = RowLayout.of(view)

    def load(self, keys: Sequence[Key]) -> Floats:
        """(K, width) rows of K entities, zeros without events. Raises redis.RedisError."""
        return self._layout.decode(
            self._execute(self._layout.read_commands(self._redis_keys(keys)))
        )

    def store(self, keys: Sequence[Key], rows: Floats) -> None:
        """Write rows (K, width); rows without events are left out. Raises redis.RedisError."""
        self._execute(self._layout.write_commands(self._redis_keys(keys), rows))

    def clear(self) -> None:
        """Delete all rows of the view. Raises redis.RedisError."""
        pattern = _literal(self._layout.prefix) + b"*" + PROJECT.encode()
        self._execute([("DEL", key) for key in self._redis.scan_iter(pattern, count=10_000)])

    def _redis_keys(self, keys: Sequence[Key]) -> list[bytes]:
        return list(map(self._layout.key, keys))

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()
