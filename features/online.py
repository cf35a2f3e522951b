"""The two hot paths around Redis: read all states of a request, write back what was folded.

Both speak the layout that Feast's Redis online store defines, compiled once from the states, so
that a request costs one round trip and no protobuf: a row's value is a fixed header and the raw
float64s. Feast's own `get_online_features` reads what is written here and the reverse; contract
tests hold it so. (https://docs.feast.dev/reference/online-stores/redis, entity key version 3.)
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

from features.redis_connection import PATIENCE_S, Command, RedisLink
from features.spec import SEQ, TIME, Floats, Key, View

PROJECT = "whiteboard"
Places = dict[str, list[bytes]]

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
    """A Redis glob pattern that matches just these bytes."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in raw)


@dataclass(frozen=True)
class Layout:
    """Where one state's rows lie in Redis, and how a row is written.

    Attributes:
        state: The accumulator or embedding stored.
        prefix: First part of every key: the number and names of the join keys.
        order: Positions of the state's keys in the sorted order Feast stores them in.
        field: Hash field of the row. stamp: hash field of its time.
        header: Bytes before the raw float64s.
    """

    state: View
    prefix: bytes
    order: tuple[int, ...]
    field: bytes
    stamp: bytes
    header: bytes

    @classmethod
    def of(cls, state: View) -> "Layout":
        """Compile a state's layout."""
        names = sorted(state.keys)
        joined = b"".join(_STRING + _sized(name) for name in names)
        packed = _PACKED_TAG + _varint(8 * state.width)
        size = len(packed) + 8 * state.width
        return cls(
            state=state,
            prefix=struct.pack("<I", len(names)) + joined,
            order=tuple(state.keys.index(name) for name in names),
            field=struct.pack("<I", mmh3.hash(f"{state.name}:{state.name}", signed=False)),
            stamp=f"_ts:{state.name}".encode(),
            header=_DOUBLE_LIST_TAG + _varint(size) + packed,
        )

    def key(self, values: Sequence[str]) -> bytes:
        """Redis key of an entity, its parts in the order of `State.keys`."""
        parts = [self.prefix]
        for i in self.order:
            raw = values[i].encode()
            parts += (_STRING, _length(len(raw)), raw)
        parts.append(_PROJECT)
        return b"".join(parts)

    def value(self, row: Floats) -> bytes:
        """A row as it is stored."""
        return self.header + row.tobytes()

    def reads(self, addresses: Sequence[bytes]) -> list[Command]:
        """What to ask Redis for the rows at K addresses, each made by `key`."""
        return [("HGET", address, self.field) for address in addresses]

    def writes(self, addresses: Sequence[bytes], rows: Floats) -> list[Command]:
        """What to tell Redis to keep K rows; one that holds nothing is left out."""
        # As lists: a number out of an array costs ten times as much as one out of a list.
        seqs, times = rows[:, SEQ].tolist(), rows[:, TIME].tolist()
        return [
            ("HSET", address, self.field, self.value(row), self.stamp, _timestamp(time))
            for address, row, seq, time in zip(addresses, rows, seqs, times, strict=True)
            if seq > 0
        ]

    def decode(self, raws: Sequence[bytes | None]) -> Floats:
        """(K, width) rows out of K raw values; zeros for one never written.

        Raises:
            ValueError: a row has another shape, as after a change of the states.
        """
        begin, width = len(self.header), self.state.width
        for raw in raws:
            if raw is not None and len(raw) != begin + 8 * width:
                what = f"a stored row of {len(raw)} bytes does not fit"
                raise ValueError(f"{self.state.name}: {what}")
        unseen = bytes(8 * width)
        packed = bytearray().join([unseen if raw is None else raw[begin:] for raw in raws])
        return np.frombuffer(packed, _DOUBLE).reshape(len(raws), width)


def _timestamp(seconds: float) -> bytes:
    nanos = round(seconds * 1e6) * 1_000
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9).SerializeToString()


class OnlineReader:
    """Reads the states one request needs, in one round trip."""

    def __init__(self, redis: RedisLink, states: Sequence[View]) -> None:
        self._redis = redis
        self._layouts = [Layout.of(state) for state in states]

    async def read(
        self, keys: Mapping[str, str | None], patience_s: float = PATIENCE_S
    ) -> dict[str, Floats]:
        """By state name, (1, width): zeros for an unseen entity, NaN for a null one.

        Raises:
            redis.RedisError, OSError: Redis is away, or did not answer within `patience_s`.
            ValueError: a stored row does not fit its state.
        """
        asked = []
        commands: list[Command] = []
        rows = {}
        for layout in self._layouts:
            key = [v for k in layout.state.keys if (v := keys[k]) is not None]
            if len(key) == len(layout.state.keys):
                commands.append(("HGET", layout.key(key), layout.field))
                asked.append(layout)
            else:
                rows[layout.state.name] = np.full((1, layout.state.width), np.nan)
        answers = await self._redis.ask(commands, patience_s)
        for layout, raw in zip(asked, answers, strict=True):
            rows[layout.state.name] = layout.decode((raw,))
        return rows


class OwnedRows:
    """Rows of several states, for the worker that owns them: read many, fold, write many."""

    def __init__(self, redis: RedisLink, states: Sequence[View]) -> None:
        self._redis = redis
        self._layouts = {state.name: Layout.of(state) for state in states}

    def locate(self, keys: Mapping[str, Sequence[Key]]) -> Places:
        """By state name, where the rows of its K entities are kept."""
        return {name: list(map(self._layouts[name].key, asked)) for name, asked in keys.items()}

    async def read(self, places: Places) -> dict[str, Floats]:
        """By state name, (K, width) rows, zeros for the unseen.

        Raises:
            redis.RedisError, OSError: Redis is away.
        """
        commands = [c for name, at in places.items() for c in self._layouts[name].reads(at)]
        answers = iter(await self._redis.ask(commands))
        return {
            name: self._layouts[name].decode(list(islice(answers, len(at))))
            for name, at in places.items()
        }

    async def write(self, places: Places, rows: Mapping[str, Floats]) -> None:
        """Write rows back, those that hold anything. Raises as `read` does."""
        layouts = self._layouts
        commands = [c for name, at in places.items() for c in layouts[name].writes(at, rows[name])]
        await self._redis.ask(commands)


class OnlineTable:
    """One state's rows in Redis, in bulk, for whoever is no stream worker."""

    def __init__(self, redis: Redis, state: View) -> None:
        self._redis = redis
        self._layout = Layout.of(state)

    def load(self, keys: Sequence[Key]) -> Floats:
        """(K, width) rows of K entities, zeros for the unseen. Raises redis.RedisError."""
        return self._layout.decode(self._execute(self._layout.reads(self._locate(keys))))

    def store(self, keys: Sequence[Key], rows: Floats) -> None:
        """Write K rows, those that hold anything. Raises redis.RedisError."""
        self._execute(self._layout.writes(self._locate(keys), rows))

    def clear(self) -> None:
        """Delete all rows of the state. Raises redis.RedisError."""
        pattern = _literal(self._layout.prefix) + b"*" + PROJECT.encode()
        self._execute([("DEL", key) for key in self._redis.scan_iter(pattern, count=10_000)])

    def _locate(self, keys: Sequence[Key]) -> list[bytes]:
        return list(map(self._layout.key, keys))

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()
