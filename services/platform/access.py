"""What one account may do at the engines: the permission table is the sum of these declarations.

Each process declares its own in `design.py`; the engines' configuration follows from it. What is
not declared is refused by the engine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

RedisAccess = Literal["", "read", "inspect", "write"]

# What clients need to connect; no account may run scripts, configure the server or see others.
_REDIS_ALWAYS = "+@connection -@dangerous -@scripting -@pubsub"
_REDIS = {
    "": "",
    "read": f"~* +@read {_REDIS_ALWAYS}",
    "inspect": f"~* +@read {_REDIS_ALWAYS} +info",
    "write": f"~* +@read +@write +@transaction {_REDIS_ALWAYS}",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """What an account may do.

    Attributes:
        redis: Its access to the online store; "inspect" reads the server's figures, too.
        publishes: NATS subjects it publishes on.
        listens: NATS subjects it subscribes to.
        consumes: Streams it reads by durable consumers.
        reads: Streams it reads message by message.
        makes: Streams it makes where they are missing. It changes none: a changed one could copy
            another's messages, or hand its own on to another's subjects.
        deletes: Streams from which it deletes single messages.
        watches: NATS key-value buckets it reads.
        keeps: NATS key-value buckets it makes, reads and writes.
        downloads: NATS object stores it reads.
        loads: Buckets of the store it reads: "lake", "inbox" or "results".
        stores: Where it writes in the store: a bucket, or a folder of one, such as "lake/fraud".
        tokens: Settings with tokens of HTTP that it checks or sends, such as "label_token".
    """

    redis: RedisAccess = ""
    publishes: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    consumes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def nats_publish(self) -> tuple[str, ...]:
        """Subjects of NATS it may publish on, those of JetStream's API among them."""
        buckets = [_bucket_stream(bucket) for bucket in (*self.watches, *self.keeps)]
        objects = [f"OBJ_{store}" for store in self.downloads]
        read = (*self.consumes, *self.reads, *self.makes, *buckets, *objects)
        got = (*self.reads, *buckets, *objects)
        made = (*self.makes, *map(_bucket_stream, self.keeps))
        subjects = [
            *self.publishes,
            *(f"$KV.{bucket}.>" for bucket in self.keeps),
            *_api("STREAM.INFO.{}", read),
            *_api("STREAM.CREATE.{}", made),
            *_api("STREAM.MSG.GET.{}", got),
            *_api("DIRECT.GET.{}", got),
            *_api("DIRECT.GET.{}.>", got),
            *_api("STREAM.MSG.DELETE.{}", self.deletes),
            *_api("CONSUMER.CREATE.{}.>", self.consumes),
            *_api("CONSUMER.DURABLE.CREATE.{}.>", self.consumes),
            *_api("CONSUMER.INFO.{}.>", self.consumes),
            *_api("CONSUMER.DELETE.{}.>", self.consumes),
            *_api("CONSUMER.MSG.NEXT.{}.>", self.consumes),
            *(f"$JS.ACK.{stream}.>" for stream in self.consumes),
            *(f"$JS.ACK.*.*.{stream}.>" for stream in self.consumes),
            *_downloads(objects),
        ]
        return tuple(dict.fromkeys(subjects))

    def nats_subscribe(self, account: str) -> tuple[str, ...]:
        """Subjects of NATS it may subscribe to: replies to others are none of them."""
        return (f"{inbox_prefix(account)}.>", *self.listens)

    def s3_actions(self, buckets: Mapping[str, str]) -> list[str]:
        """Actions of SeaweedFS's S3.

        Args:
            buckets: By "lake", "inbox", "results", the bucket's name.
        """
        loads = [f"{verb}:{buckets[name]}" for name in self.loads for verb in ("Read", "List")]
        return [*loads, *(f"Write:{_place(place, buckets)}" for place in self.stores)]

    def plus(self, *others: "Access") -> "Access":
        """What this and the others allow together; the access to Redis stays this one's.

        >>> Access(reads=("A",)).plus(Access(reads=("B",), loads=("lake",))).reads
        ('A', 'B')
        """
        names = [field.name for field in fields(self) if field.name != "redis"]
        sums: dict[str, Any] = {
            name: sum((getattr(o, name) for o in (self, *others)), ()) for name in names
        }
        return replace(self, **sums)

    @property
    def redis_rules(self) -> str:
        """Rules of Redis' ACL; empty: it has no account there."""
        return _REDIS[self.redis]


NOTHING = Access()


def inbox_prefix(account: str) -> str:
    """Where replies to an account go: no other account may listen there.

    >>> inbox_prefix("scorer")
    '_INBOX_scorer'
    """
    return f"_INBOX_{account}"


def _api(pattern: str, streams: Iterable[str]) -> list[str]:
    return [f"$JS.API.{pattern.format(stream)}" for stream in streams]


def _downloads(streams: list[str]) -> list[str]:
    """What reading an object takes: the client looks its stream up, and follows it once."""
    if not streams:
        return []
    return [
        "$JS.API.STREAM.NAMES",
        *_api("CONSUMER.CREATE.{}", streams),
        *_api("CONSUMER.CREATE.{}.>", streams),
        *_api("CONSUMER.INFO.{}.>", streams),
        *_api("CONSUMER.DELETE.{}.>", streams),
        *(f"$JS.FC.{stream}.>" for stream in streams),
    ]


def _bucket_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def _place(place: str, buckets: Mapping[str, str]) -> str:
    """A folder or a bucket as SeaweedFS's actions name it.

    >>> _place("lake/fraud", {"lake": "l"}), _place("results", {"results": "r"})
    ('l/fraud/*', 'r')
    """
    name, _, folder = place.partition("/")
    return f"{buckets[name]}/{folder}/*" if folder else buckets[name]


OPERATOR = "operator"
# Of commands on this machine: they make streams, train, promote. No account has `@dangerous`.
OPERATOR_REDIS_RULES = f"{_REDIS['write']} +info +dbsize"
# Of every account in a cluster: where slots are, and whether replicas have what was written.
CLUSTER_REDIS_RULES = "+cluster|slots +asking +wait"
