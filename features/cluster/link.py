"""Connections to the nodes of a Redis Cluster, which all requests of a process share.

A call's commands go to each node at once, and each node answers them in one round trip. A command
whose node does not answer has an exception for a reply, and the others have theirs. MOVED and ASK
are followed. The map of slots is read again in the background: after a redirection, while a node is
away, and every few seconds.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from hiredis import ReplyError
from redis.exceptions import RedisError, ResponseError

from features.cluster.node import PING_TIMEOUT_S, Node
from features.cluster.shards import SLOTS, key_slot
from features.cluster.topology import (
    Address,
    ClusterUrl,
    Redirection,
    read_ranges,
    read_redirection,
)
from features.redis_connection import TIMEOUT_S, Command, RedisConnection

_REFRESH_S, _RETRY_S = 5.0, 0.25
_MAX_REDIRECTIONS = 3
_KEYLESS = frozenset(("PING", "SCAN", "INFO"))


class ClusterLink:
    """A Redis Cluster, with the methods of a `RedisConnection`. It opens at the first call."""

    def __init__(self, url: str, shards: int) -> None:
        """Connect to nothing yet.

        Args:
            shards: Shards of each entity, by which its rows lie.

        Raises:
            ValueError: the URL is none of a cluster.
        """
        self.shards = shards
        self._url = ClusterUrl.parse(url)
        self._nodes = {address: Node(self._url, address) for address in self._url.seeds}
        self._masters: list[Address | None] = [None] * SLOTS
        self._known = False
        self._opening = asyncio.Lock()
        self._stale = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def nodes(self) -> list[RedisConnection]:
        """The connections to the masters that answer."""
        return [node.connection for node in self._owners() if not node.away]

    @property
    def away(self) -> list[str]:
        """The masters that do not answer, as host:port."""
        return [node.name for node in self._owners() if node.away]

    async def open(self) -> None:
        """Read the map of slots. OSError: no node answers with one."""
        async with self._opening:
            if not self._known:
                await self._refresh()
                self._follow_in_background()

    def close(self) -> None:
        """Close all connections."""
        if self._following is not None:
            self._following.cancel()
            self._following = None
        self._known = False
        for node in self._nodes.values():
            node.connection.close()

    def refresh_soon(self) -> None:
        """Have the map of slots read again in the background."""
        self._stale.set()

    async def execute(self, commands: Sequence[Command], timeout_s: float = TIMEOUT_S) -> list[Any]:
        """As `results`, but raises what one of the commands failed with.

        Raises:
            TimeoutError, OSError: a node does not answer.
            redis.ResponseError: a node refused a command.
        """
        found = await self.results(commands, timeout_s)
        for value in found:
            if isinstance(value, ReplyError):
                raise ResponseError(str(value))
            if isinstance(value, Exception):
                raise value
        return found

    async def results(self, commands: Sequence[Command], timeout_s: float = TIMEOUT_S) -> list[Any]:
        """Replies to the commands, which go to all nodes at once.

        An exception stands for a reply: hiredis.ReplyError where a node refused the command,
        OSError or redis.RedisError where it does not answer.

        Raises:
            TimeoutError, OSError: no node knows where the slots are.
        """
        if not commands:
            return []
        if not self._known:
            async with asyncio.timeout(timeout_s):
                await self.open()
        deadline = monotonic() + timeout_s
        slots = [_slot(command) for command in commands]
        found: list[Any] = [None] * len(commands)
        asked = await self._round(found, commands, self._grouped(slots), timeout_s)
        for _ in range(_MAX_REDIRECTIONS):
            again = self._redirected(found, asked)
            left = deadline - monotonic()
            if not again or left <= 0:
                break
            asked = await self._follow_redirections(found, commands, again, left)
        return found

    async def connection(self, key: bytes) -> tuple[RedisConnection, int]:
        """The connection to the node with a key's slot, and how many replicas that has.

        Raises:
            OSError: it is away, or no node has the slot.
        """
        if not self._known:
            await self.open()
        node = self._owner(key_slot(key))
        if node is None or node.away:
            raise ConnectionError(f"redis at {node.name if node else 'no node'} is away")
        return node.connection, node.replicas

    def _owners(self) -> list[Node]:
        addresses = {address for address in self._masters if address is not None}
        return [self._nodes[address] for address in sorted(addresses)]

    def _owner(self, slot: int | None) -> Node | None:
        """The node with a slot; any that answers for a command without a key."""
        if slot is None:
            owners = self._owners()
            return random.choice([node for node in owners if not node.away] or owners)
        address = self._masters[slot]
        return None if address is None else self._nodes[address]

    def _grouped(self, slots: Sequence[int | None]) -> dict[Node | None, list[int]]:
        """By node, the positions of the commands for it."""
        groups: dict[Node | None, list[int]] = {}
        for position, slot in enumerate(slots):
            groups.setdefault(self._owner(slot), []).append(position)
        return groups

    async def _round(
        self,
        found: list[Any],
        commands: Sequence[Command],
        groups: dict[Node | None, list[int]],
        timeout_s: float,
    ) -> dict[int, Node]:
        """Ask each node its commands. Returns which node each was asked."""
        asked: dict[int, Node] = {}
        for position in groups.pop(None, ()):
            found[position] = ConnectionError("no node of the cluster has the key's slot")
            self._stale.set()
        calls = [
            node.results([commands[p] for p in positions], timeout_s)
            for node, positions in groups.items()
            if node is not None
        ]
        replies = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
        for (node, positions), values in zip(groups.items(), replies, strict=True):
            assert node is not None
            for position, value in zip(positions, values, strict=True):
                found[position] = value
                asked[position] = node
            if node.away:
                self._stale.set()
        return asked

    def _redirected(self, found: list[Any], asked: dict[int, Node]) -> dict[int, Redirection]:
        """The redirections among the replies, by position."""
        redirected = {}
        for position, node in asked.items():
            value = found[position]
            if isinstance(value, ReplyError):
                wanted = read_redirection(str(value), node.address)
                if wanted is not None:
                    redirected[position] = wanted
                    self._stale.set()
                elif str(value).startswith("CLUSTERDOWN"):
                    self._stale.set()
        return redirected

    async def _follow_redirections(
        self,
        found: list[Any],
        commands: Sequence[Command],
        redirected: dict[int, Redirection],
        timeout_s: float,
    ) -> dict[int, Node]:
        """Ask other nodes, at once; an ASKING precedes what was not moved for good."""
        groups: dict[Node, list[tuple[int, bool]]] = {}
        for position, one in redirected.items():
            node = self._node(one.address)
            groups.setdefault(node, []).append((position, one.is_moved))
            if one.is_moved:
                self._masters[one.slot] = one.address
        sent = [
            [c for p, moved in wanted for c in (*(() if moved else (("ASKING",),)), commands[p])]
            for wanted in groups.values()
        ]
        calls = [node.results(part, timeout_s) for node, part in zip(groups, sent, strict=True)]
        asked: dict[int, Node] = {}
        for (node, wanted), values in zip(
            groups.items(), await asyncio.gather(*calls), strict=True
        ):
            replies = iter(values)
            for position, moved in wanted:
                if not moved:
                    next(replies)
                found[position] = next(replies)
                asked[position] = node
        return asked

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = Node(self._url, address)
        return self._nodes[address]

    def _follow_in_background(self) -> None:
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        """Keep the map of slots, and look for nodes that are back. Runs until cancelled."""
        while True:
            wait = _RETRY_S if any(node.away for node in self._nodes.values()) else _REFRESH_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stale.wait()
            self._stale.clear()
            with suppress(OSError, RedisError, ValueError):
                await self._refresh()
            away = [node for node in self._nodes.values() if node.away]
            await asyncio.gather(*(node.probe() for node in away))
            await asyncio.sleep(_RETRY_S / 2)  # not for each of a burst of redirections

    async def _refresh(self) -> None:
        """Read the map of slots from the first node that has one. OSError: none has."""
        nodes = sorted(self._nodes.values(), key=lambda node: node.away)
        error: Exception = ConnectionError("no node of the cluster answers")
        for node in nodes:
            try:
                [reply] = await node.connection.results([("CLUSTER", "SLOTS")], PING_TIMEOUT_S)
                if isinstance(reply, ReplyError):
                    raise ConnectionError(f"redis at {node.name}: {reply}")
                self._take(reply, node.address)
                return
            except (OSError, RedisError, ValueError) as failed:
                error = failed
        raise ConnectionError(f"no map of the cluster's slots: {error}") from error

    def _take(self, reply: Sequence[Any], asked: Address) -> None:
        """Use an answer of CLUSTER SLOTS, and close connections to nodes that are none any more."""
        ranges = read_ranges(reply, asked)
        if not ranges:
            raise ValueError("the cluster has no slots yet")
        masters: list[Address | None] = [None] * SLOTS
        for one in ranges:
            masters[one.first : one.last + 1] = [one.master] * (one.last + 1 - one.first)
            self._node(one.master).replicas = one.replicas
        self._masters, self._known = masters, True
        kept = {one.master for one in ranges}.union(self._url.seeds)
        for address in [address for address in self._nodes if address not in kept]:
            self._nodes.pop(address).connection.close()


def _slot(command: Command) -> int | None:
    """The slot of a command's key, which is its first argument; None without a key."""
    name = command[0]
    if name in _KEYLESS:
        return None
    key = command[1]
    return key_slot(key if isinstance(key, bytes) else key.encode())
