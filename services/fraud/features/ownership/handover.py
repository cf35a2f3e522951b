"""Which rows of the online store are complete, and how a worker takes rebuilt rows over.

A record in Redis, one hash, says for each state under which declaration its rows are complete. A
state that the record does not confirm is left alone by its worker: it folds nothing into its rows
until `whiteboard rebuild fraud` (`rebuild.py`) has made them anew.

`rebuild` never writes the rows of a state itself, since a row has one writer, its worker. It
leaves the rows as of a sequence N in the lake and writes an offer into the record. The worker then,
between two batches and with nothing in flight,

1. replaces all its rows by the offered ones and deletes those of other entities: every row is now
   the fold of all events up to N, and an entity without a row has none of them;
2. starts its consumer anew behind N, so that every later event is folded exactly once (an event at
   or below its row's sequence changes nothing, as ever);
3. notes in the record that it took the offer.

If it is killed in between, it does all three again, with the same result: nothing is folded before
step 3, and the offer remains. Scoring goes on all the while: each row that it reads is exact as of
the sequence that it logs.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis

from features.cluster.shards import hash_tag
from features.online.layout import PROJECT
from features.online.table import OnlineTable
from features.redis_connection import RedisLink
from features.spec import Key, State
from features.state_log import stack
from services.fraud.problem import DESIGN
from services.platform.storage.lake import Lake

log = logging.getLogger(__name__)

RECORD = f"{PROJECT}:{DESIGN}:features"
# By durable consumer, the sequence up to which its worker's rows are in Redis.
POSITIONS = f"{PROJECT}:{DESIGN}:positions"
OFFERS_FOLDER = f"{DESIGN}/rebuild"
_OFFER = "offer"
# The field with the workers' assignment: see `assignment.py`.
ASSIGNMENT = "workers"

Record = Mapping[str, str]


@dataclass(frozen=True)
class Offer:
    """Rows of all states as of one sequence, in the lake.

    Attributes:
        id: Its folder in the lake.
        last_seq: All events up to this sequence are in the rows, and no later one.
        hashes: The declarations of the rows, hashes by state name.
    """

    id: str
    last_seq: int
    hashes: dict[str, str]

    @property
    def folder(self) -> str:
        """Where its rows are in the lake."""
        return f"{OFFERS_FOLDER}/{self.id}"

    def table(self, state: State) -> str:
        """Where the rows of a state are in the lake."""
        return f"{self.folder}/{state.name}"


class OnlineRecord:
    """The record in Redis. All methods raise redis.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def read(self) -> Record:
        """All fields."""
        fields: Any = self._redis.hgetall(RECORD)
        return decoded(fields.items())

    def complete(self, states: Sequence[State]) -> None:
        """Note that the rows of states are complete, under their present declarations."""
        if states:
            self._redis.hset(RECORD, mapping={_state(s): s.hash for s in states})

    def reset(self, states: Sequence[State]) -> None:
        """Begin a new record, in which the rows of states are complete."""
        for key in (RECORD, *position_keys(self._redis)):
            self._redis.delete(key)
        self.complete(states)

    def offer(self, offer: Offer) -> None:
        """Offer rows to the workers, in place of an earlier offer."""
        self._redis.hset(RECORD, _OFFER, orjson.dumps(asdict(offer)).decode())

    def take(self, worker: str, offer: Offer, states: Sequence[State]) -> None:
        """Note that a worker took an offer, after which the rows of its states are complete."""
        complete = {_state(s): s.hash for s in states}
        self._redis.hset(RECORD, mapping={**complete, _worker(worker): offer.id})

    def usable(self, states: Sequence[State], last_folded: int) -> list[State]:
        """The states whose rows are complete.

        A state without an entry gets one if its rows have no hash, since they are of the version
        before this record, or if there are no rows since no event was folded yet. Otherwise the
        record was lost, and with it rows.

        Args:
            last_folded: Sequence of the last event that was folded, 0 for none.
        """
        record, found = self.read(), []
        for state in states:
            known = record.get(_state(state))
            if known is None:
                is_first = OnlineTable(self._redis, state).is_first()
                if is_first or (is_first is None and not last_folded):
                    self.complete([state])
                    found.append(state)
            elif known == state.hash:
                found.append(state)
        return found


def decoded(pairs: Any) -> Record:
    """The record from Redis' pairs of bytes."""
    return {field.decode(): value.decode() for field, value in pairs}


def pending(record: Record, states: Sequence[State], worker: str = "") -> Offer | None:
    """The offer in a record, if it is of exactly these declarations and not taken by the worker."""
    if _OFFER not in record:
        return None
    offer = Offer(**orjson.loads(record[_OFFER]))
    if any(offer.hashes.get(state.name) != state.hash for state in states):
        return None
    return None if record.get(_worker(worker)) == offer.id else offer


def was_taken(record: Record, worker: str, offer: Offer) -> bool:
    """Whether a worker has taken an offer."""
    return record.get(_worker(worker)) == offer.id


def entries(record: Record, states: Sequence[State]) -> list[str | None]:
    """The hashes that a record has for states, None where it has none."""
    return [record.get(_state(state)) for state in states]


def replace_rows(
    redis: Redis, lake: Lake, offer: Offer, state: State, owns: Callable[[State, Key], bool]
) -> int:
    """Make the rows of a state those of an offer. Returns how many there are.

    Args:
        owns: Whether the rows of an entity are this worker's; others stay as they are.

    Raises:
        redis.RedisError, OSError: an engine is unavailable. Replace them again.
    """
    table = OnlineTable(redis, state)
    kept: set[Key] = set()
    files = lake.files(offer.table(state))
    if not files:
        raise FileNotFoundError(f"the rows in {offer.table(state)} are gone")
    for file in files:
        rows = pq.read_table(file, filesystem=lake.filesystem)
        found = list(zip(*(rows[key].to_pylist() for key in state.keys), strict=True))
        is_mine = [owns(state, key) for key in found]
        mine = rows.filter(pa.array(is_mine, pa.bool_()))
        keys = [key for key, chosen in zip(found, is_mine, strict=True) if chosen]
        table.store(keys, stack(mine[state.name].to_pandas(), state.width))
        kept.update(keys)
    table.delete(key for key in table.entities() if key not in kept and owns(state, key))
    return len(kept)


def owner_field(worker: str) -> str:
    """The field with the process that runs as a worker, which nothing but itself may write."""
    return f"owner:{worker}"


def position_keys(redis: Redis | RedisLink, shards: Iterable[int] | None = None) -> list[str]:
    """Where positions are: in one Redis, in one hash; in a cluster, in one per shard.

    Args:
        redis: A client of `features.cluster.clients`, or a connection.
        shards: Which shards' of a cluster; all if None.
    """
    count = int(getattr(redis, "shards", 0))
    if not count:
        return [POSITIONS]
    wanted = range(count) if shards is None else shards
    return [f"{hash_tag(shard).decode()}{POSITIONS}" for shard in wanted]


def shard_field(shard: int) -> str:
    """The field that says that a shard of a cluster has its rows."""
    return f"shard:{shard}"


def shards_of(record: Record) -> frozenset[int]:
    """The shards of a cluster that have their rows.

    >>> sorted(shards_of({"shard:3": "1", "state:x": "ab"}))
    [3]
    """
    return frozenset(int(f.removeprefix("shard:")) for f in record if f.startswith("shard:"))


def fields_of(
    record: Record, new: Sequence[str], old: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """What to add and to remove where workers of other names go on: they have the same offer.

    >>> fields_of({"taken:a": "7", "owner:a": "x", "offer": '{"id": "7"}'}, ["b"], ["a"])
    ({'taken:b': '7'}, ['taken:a', 'owner:a'])
    """
    removed = [f for name in old for f in (_worker(name), owner_field(name)) if f in record]
    if _OFFER not in record:
        return {}, removed
    taken = orjson.loads(record[_OFFER])["id"]
    return {_worker(name): taken for name in new}, removed


def _state(state: State) -> str:
    return f"state:{state.name}"


def _worker(name: str) -> str:
    return f"taken:{name}"
