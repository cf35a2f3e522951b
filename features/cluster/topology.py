"""Where a Redis Cluster's slots are: its URL, what CLUSTER SLOTS answers, and redirections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from features.cluster.shards import SLOTS

_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_PORT = 6379

# Host and port of a node.
Address = tuple[str, int]


@dataclass(frozen=True)
class ClusterUrl:
    """A URL of a cluster: `redis+cluster://user:password@host:port,host:port`.

    Attributes:
        scheme: Of one node's URL: redis, or rediss with TLS.
        account: User and password, percent-encoded, with the @; empty without.
        seeds: Nodes to ask first; they know the others.
    """

    scheme: str
    account: str
    seeds: tuple[Address, ...]

    @classmethod
    def parse(cls, url: str) -> "ClusterUrl":
        """The parts of a URL.

        Raises:
            ValueError: it is none of a cluster, or a host or port is missing.

        >>> ClusterUrl.parse("redis+cluster://me:x%40y@a:7000,b:7001").seeds
        (('a', 7000), ('b', 7001))
        """
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme not in _SCHEMES or not hosts.strip(","):
            raise ValueError(
                f"{parts.scheme}://{hosts} is no URL of a Redis Cluster: write "
                "redis+cluster://user:password@host:port,host:port"
            )
        seeds = tuple(_address(host) for host in hosts.split(",") if host)
        return cls(_SCHEMES[parts.scheme], f"{account}@" if account else "", seeds)

    def node(self, address: Address) -> str:
        """URL of one node."""
        host, port = address
        name = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.account}{name}:{port}/0"


def is_cluster(url: str) -> bool:
    """Whether a URL is one of a cluster.

    >>> is_cluster("redis://a:1/0"), is_cluster("redis+cluster://a:1,b:1")
    (False, True)
    """
    return urlsplit(url).scheme in _SCHEMES


def _address(text: str) -> Address:
    """Host and port.

    >>> _address("a:7"), _address("a"), _address("[::1]:7")
    (('a', 7), ('a', 6379), ('::1', 7))
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError(f"{text!r} is no host:port of a Redis Cluster")
    return host, port or _PORT


@dataclass(frozen=True)
class Range:
    """Slots that a node has.

    Attributes:
        first: The first slot.
        last: The last slot.
        master: The node.
        replicas: How many replicas it has that the cluster thinks well of.
    """

    first: int
    last: int
    master: Address
    replicas: int


def read_ranges(reply: Sequence[Any], asked: Address) -> list[Range]:
    """What CLUSTER SLOTS answers.

    Args:
        asked: The node that answered: one without a host is there.

    Raises:
        ValueError: the answer is no list of ranges of slots.
    """
    try:
        found = [
            Range(int(first), int(last), _node(master, asked), len(replicas))
            for first, last, master, *replicas in reply
        ]
    except (TypeError, ValueError, IndexError, AttributeError):
        raise ValueError("CLUSTER SLOTS has an answer that is not its own") from None
    if any(not 0 <= one.first <= one.last < SLOTS for one in found):
        raise ValueError("CLUSTER SLOTS names slots that do not exist")
    return found


def _node(entry: Sequence[Any], asked: Address) -> Address:
    host = entry[0].decode() if entry[0] else ""
    return host or asked[0], int(entry[1])


@dataclass(frozen=True)
class Redirection:
    """A node's reply that another node has a key's slot.

    Attributes:
        is_moved: Whether the slot has moved for good; false: ask there, this once.
        slot: The slot.
        address: The other node.
    """

    is_moved: bool
    slot: int
    address: Address


def read_redirection(error: str, asked: Address) -> Redirection | None:
    """What an error redirects to; None if it is no redirection.

    >>> read_redirection("MOVED 3999 10.0.0.1:6381", ("a", 1))
    Redirection(is_moved=True, slot=3999, address=('10.0.0.1', 6381))
    >>> read_redirection("ASK 3999 :6381", ("a", 1)).address, read_redirection("WRONGTYPE x", "a")
    (('a', 6381), None)
    """
    kind, _, rest = error.partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, where = rest.partition(" ")
    host, _, port = where.rpartition(":")
    if not slot.isdigit() or not port.isdigit() or int(slot) >= SLOTS:
        return None
    return Redirection(kind == "MOVED", int(slot), (host or asked[0], int(port)))
