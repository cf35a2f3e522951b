"""The rows of one view in bulk, by a blocking client."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis import Redis

from features.online.layout import RowLayout
from features.online.replies import decode_all, is_wrong_type
from features.redis_connection import Command
from features.spec import Key, View
from services.platform.types import Floats

T = TypeVar("T")

_PAGE = 10_000


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


def _pages(keys: Iterable[T]) -> Iterator[list[T]]:
    """Keys in lists of `_PAGE`, a round trip each."""
    source = iter(keys)
    while page := list(islice(source, _PAGE)):
        yield page
