"""The rows that one request needs, and all rows for the scorer's cache."""

from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice

import numpy as np

from features.online.layout import RowLayout
from features.online.replies import count_row_error
from features.redis_connection import TIMEOUT_S, Command, RedisConnection, RedisLink
from features.spec import Key, View
from services.platform.types import Floats


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
                rows[layout.view.name] = layout.decode_one(raw)
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
                (layout.entity(key), layout.decode_one(raw))
                for key, raw in zip(held, islice(raws, len(held)), strict=True)
                if isinstance(raw, bytes) and raw[layout.end :] == layout.trailer
            ]
            for layout, held in found.items()
        }
