"""Shards of entities, their hash tags, and the slots of a Redis Cluster's keys."""

import zlib
from binascii import crc_hqx

SLOTS = 16_384


def shard_number(entity: str, shards: int) -> int:
    """The shard of an entity, of so many.

    >>> shard_number("c1", 16)
    1
    """
    return zlib.crc32(entity.encode()) % shards


def hash_tag(shard: int) -> bytes:
    """What the keys of a shard's rows begin with in a cluster.

    >>> hash_tag(7)
    b'{7}'
    """
    return b"{%d}" % shard


def tagged_shard(key: bytes) -> int:
    """The shard of a key that begins with a hash tag.

    >>> tagged_shard(b"{12}rest}")
    12
    """
    return int(key[1 : key.index(b"}")])


def key_slot(key: bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it where it has none.

    A tag is what stands between the first `{` and the next `}`, if that is anything.

    >>> key_slot(b"123456789"), key_slot(b"{user}a") == key_slot(b"{user}b"), key_slot(b"a{}b")
    (12739, True, 13694)
    """
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) % SLOTS
