"""The Redis keys, hash fields and encoding of a view's rows: those of Feast's Redis online store.

Source: https://docs.feast.dev/reference/online-stores/redis, entity key version 3.

A row ends with the hash of its view, as a field of the protobuf message that Feast does not know
and therefore skips (https://protobuf.dev/programming-guides/proto3/#unknowns). One value holds
both, so a row and its hash are always consistent. A row under another hash is left out wherever it
is read: it becomes a row of NaN, as if it had not been read, and is counted. A row without a hash
was written before rows had one, or by Feast; it counts as one of `View.first_hash`.

In a cluster a key begins with the hash tag of its shard, and Feast's own reader finds no row there.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import mmh3
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from features.cluster.shards import hash_tag, shard_number
from features.redis_connection import Command
from features.spec import SEQ, TIME, Key, View
from services.platform.telemetry import count_left_out
from services.platform.types import Floats

PROJECT = "whiteboard"

_MANY = 128  # from this many rows on, numpy is faster at decoding than Python
_PROJECT = PROJECT.encode()
_STRING = struct.pack("<I", 2)  # feast.types.Value.proto: ValueType.STRING
_length, _length_of = struct.Struct("<I").pack, struct.Struct("<I").unpack_from
_DOUBLE_LIST_TAG = b"\x7a"  # Value.double_list_val = 15, length-delimited
_DOUBLE = np.dtype("<f8")
_PACKED_TAG = b"\x0a"  # DoubleList.val = 1, packed
_HASH_FIELD = 2047  # a number that Value.proto does not use, fixed64


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
        packed = bytearray().join(map(self._packed, raws))
        return np.frombuffer(packed, _DOUBLE).reshape(len(raws), self.view.width)

    def decode_one(self, raw: bytes | None) -> Floats:
        """`decode` of one stored value, (1, width), in half the time."""
        return np.frombuffer(self._packed(raw), _DOUBLE).reshape(1, -1)

    def _packed(self, raw: bytes | None) -> bytes:
        """The float64s of a value."""
        if raw is not None and raw[self.end :] == self.trailer:
            return raw[self.begin : self.end]
        return self._without_hash(raw)

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


def _timestamp(seconds: float) -> bytes:
    nanos = round(seconds * 1e6) * 1_000
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9).SerializeToString()
