"""One node of a Redis Cluster: its connection, and whether it answers."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from hiredis import ReplyError
from redis.exceptions import RedisError

from features.cluster.topology import Address, ClusterUrl
from features.redis_connection import Command, RedisConnection

log = logging.getLogger(__name__)

PING_TIMEOUT_S = 0.5
# A node counts as away after timeouts only for this long, as one Redis does for the scorer.
_MAX_TIMEOUTS_S = 0.1


class Node:
    """A node and its connection.

    Attributes:
        address: Host and port.
        connection: The connection.
        replicas: How many replicas the cluster lists for it.
        away: Whether it does not answer; it is asked nothing then but whether it is back.
    """

    def __init__(self, url: ClusterUrl, address: Address) -> None:
        self.address = address
        self.connection = RedisConnection(url.node(address))
        self.replicas = 0
        self.away = False
        self._late_since = 0.0

    @property
    def name(self) -> str:
        """Host and port as text."""
        return f"{self.address[0]}:{self.address[1]}"

    async def results(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Replies, or the same exception for each command where the node does not answer."""
        if self.away:
            return [ConnectionError(f"redis at {self.name} is away")] * len(commands)
        try:
            found = await self.connection.results(commands, timeout_s)
            self._late_since = 0.0
            return found
        except TimeoutError as error:
            now = monotonic()
            self._late_since = self._late_since or now - timeout_s
            if now - self._late_since > _MAX_TIMEOUTS_S:
                self._leave("it does not answer in time")
            return [error] * len(commands)
        except (OSError, RedisError) as error:
            self._leave(str(error))
            return [error] * len(commands)

    def _leave(self, reason: str) -> None:
        if not self.away:
            log.warning("redis at %s is away: %s", self.name, reason)
        self.away = True

    async def probe(self) -> None:
        """Ask a node that is away whether it answers again."""
        with suppress(OSError, RedisError):
            [answer] = await self.connection.results([("PING",)], PING_TIMEOUT_S)
            if not isinstance(answer, ReplyError):  # LOADING: it is not ready
                log.warning("redis at %s is back", self.name)
                self.away, self._late_since = False, 0.0
