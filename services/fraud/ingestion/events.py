"""Transactions, labels and decisions as events: their fields, their subjects, their columns."""

import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from features.spec import Columns
from services.fraud.problem import CURRENCY
from services.platform.streaming.consumer import EVERYTHING, Delivered
from services.platform.streaming.messages import explain

STREAM = "FRAUD"
DECISIONS_STREAM = "FRAUD_DECISIONS"
DEAD_STREAM = "FRAUD_DEAD"
TX, LABEL, DECISION, DEAD = "fraud.tx", "fraud.label", "fraud.decision", "fraud.dead"
STREAMS = {
    STREAM: [f"{TX}.>", f"{LABEL}.>"],
    DECISIONS_STREAM: [f"{DECISION}.>"],
    DEAD_STREAM: [f"{DEAD}.>"],
}
ENTITIES = ("customer_id", "merchant_id", "device_id", "ip")
NO_SHARD = "none"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# A state moved into the future would take every later event for a late one: a clock may run fast
# by a day at most, measured against the moment the stream took the event.
MOST_AHEAD_US = 86_400 * 1_000_000
MOST_ITEMS = 200


def _sane(time: datetime) -> datetime:
    if not _EARLIEST <= time < _LATEST:
        raise ValueError(f"must lie between {_EARLIEST.year} and {_LATEST.year}")
    return time


def _address(text: str) -> str:
    """An address in its one spelling."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise ValueError("must be an IPv4 or IPv6 address") from None


def _iso_only(value: object) -> object:
    """A number would be read as seconds or milliseconds by its size: too clever for time."""
    if isinstance(value, int | float):
        raise ValueError('must be text such as "2022-04-30T12:00:00Z"')
    return value


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
Time = Annotated[AwareDatetime, BeforeValidator(_iso_only), AfterValidator(_sane)]
Address = Annotated[str, AfterValidator(_address)]
# Zero is a card being verified.
MinorUnits = Annotated[int, Field(ge=0, le=100_000_000, strict=True)]


class Strict(BaseModel):
    """A message of which every field is known, and none is guessed at."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(Strict):
    """One line of a cart. `price_minor` is the line's total."""

    category: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    price_minor: MinorUnits


class Parties(Strict):
    """Who takes part: what a transaction and its label have in common."""

    transaction_id: Id
    event_time: Time
    customer_id: Id
    merchant_id: Id
    device_id: Id | None = None
    ip: Address | None = None


class Transaction(Parties):
    """A card transaction, as the payment gateway asks about it."""

    amount_minor: MinorUnits
    currency: Literal["EUR"] = CURRENCY
    cart: Annotated[list[Item], Field(max_length=MOST_ITEMS)] = []


Outcome = Literal["approve", "decline"]


class TransactionEvent(Transaction):
    """A transaction that took place, with the answer it was given; null if nobody was asked."""

    outcome: Outcome | None = None


class LabelEvent(Parties):
    """What became of a transaction: charged back, or undisputed when the window closed."""

    fraud: bool


class DecisionEvent(Strict):
    """What the scorer decided, with all that is needed to check it later.

    Attributes:
        features: The vector it saw, null for NaN. seqs: By state, the sequence of the row it
            read: 0 for an entity not seen before, null for one that was not read.
        synthetic: Asked by a load test, about a purchase that never was: no monitor looks at it.
    """

    transaction_id: Id
    decision_id: str
    decision: Outcome
    score: float
    threshold: float
    model: str
    degraded: bool
    synthetic: bool = False
    transaction: Transaction
    features: list[float | None]
    seqs: dict[str, int | None]


Event = TransactionEvent | LabelEvent


def shard(value: str | None, shards: int) -> str:
    """The shard of an entity's key, as a subject's token; an absent entity has none."""
    return NO_SHARD if value is None else str(zlib.crc32(value.encode()) % shards)


def subject(prefix: str, parties: Parties, shards: int) -> str:
    """`<prefix>.<customer>.<merchant>.<device>.<ip>`, each the shard of that entity."""
    tokens = (shard(getattr(parties, entity), shards) for entity in ENTITIES)
    return ".".join((prefix, *tokens))


def owned_subject(entity: str | None = None, number: int | None = None) -> str:
    """What a feature worker subscribes to: all of it, or one shard of one entity."""
    if entity is None:
        return EVERYTHING
    tokens = [str(number) if e == entity else "*" for e in ENTITIES]
    return ".".join(("fraud.*", *tokens))


def parse(message: Delivered) -> Event:
    """Read a message of the stream. ValueError says what is wrong with it, naming the field."""
    kind = LabelEvent if message.subject.startswith(f"{LABEL}.") else TransactionEvent
    try:
        event = kind.model_validate_json(message.data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    if microseconds(event.event_time) > message.published_us + MOST_AHEAD_US:
        raise ValueError("event_time: more than a day ahead of the clock")
    return event


def microseconds(time: datetime) -> int:
    """Exact microseconds since the epoch."""
    since = time - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def seconds(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Microseconds to the float64 seconds of features; one rounding, the same everywhere."""
    return np.asarray(time_us, dtype=np.int64) / 1e6


@dataclass(frozen=True)
class Events:
    """N events as columns, in stream order: what the accumulators fold.

    Attributes:
        seq: (N,) stream sequence. time: (N,) event time, UTC seconds.
        sighting: (N,) true for a transaction, false for a label.
        amount: (N,) major units, 0 for a label. chargeback: (N,) true for a label saying fraud.
        keys: For each entity, its (N,) keys, None where absent.
    """

    seq: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    sighting: npt.NDArray[np.bool_]
    amount: npt.NDArray[np.float64]
    chargeback: npt.NDArray[np.bool_]
    keys: Columns

    def __len__(self) -> int:
        return len(self.seq)

    @classmethod
    def of(cls, events: Sequence[Event], seqs: Sequence[int]) -> "Events":
        """Columns of events that came with these sequences."""
        amounts = [getattr(e, "amount_minor", 0) for e in events]
        return cls(
            seq=np.array(seqs, dtype=np.int64),
            time=seconds(np.array([microseconds(e.event_time) for e in events], dtype=np.int64)),
            sighting=np.array([isinstance(e, TransactionEvent) for e in events], dtype=bool),
            amount=np.array(amounts, dtype=np.int64) / 100.0,
            chargeback=np.array([getattr(e, "fraud", False) for e in events], dtype=bool),
            keys={entity: [getattr(e, entity) for e in events] for entity in ENTITIES},
        )

    @classmethod
    def from_tables(cls, transactions: pa.Table, labels: pa.Table | None) -> "Events":
        """Columns of the lake's transactions and labels, merged by their sequence."""
        wanted = ["seq", "event_time", *ENTITIES, "amount_minor", "fraud"]
        parts = [transactions.append_column("fraud", pa.nulls(len(transactions), pa.bool_()))]
        if labels is not None:
            amounts = pa.nulls(len(labels), pa.int64())
            parts.append(labels.append_column("amount_minor", amounts))
        rows = pa.concat_tables(
            [part.select(wanted) for part in parts], promote_options="permissive"
        ).sort_by("seq")
        fraud = rows["fraud"]
        amount = pc.fill_null(rows["amount_minor"], 0).to_numpy()
        return cls(
            seq=rows["seq"].to_numpy(),
            time=seconds(rows["event_time"].cast(pa.int64()).to_numpy()),
            sighting=fraud.is_null().to_numpy(),
            amount=amount / 100.0,
            chargeback=pc.fill_null(fraud, False).to_numpy(),
            keys={entity: rows[entity].to_numpy() for entity in ENTITIES},
        )


_PARTIES = [
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("transaction_id", pa.string(), nullable=False),
    pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("customer_id", pa.string(), nullable=False),
    pa.field("merchant_id", pa.string(), nullable=False),
    pa.field("device_id", pa.string()),
    pa.field("ip", pa.string()),
]
_ITEM = pa.struct([("category", pa.string()), ("price_minor", pa.int64())])
TRANSACTIONS = pa.schema(
    [
        *_PARTIES,
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("cart", pa.list_(_ITEM), nullable=False),
        pa.field("outcome", pa.string()),
    ]
)
LABELS = pa.schema([*_PARTIES, pa.field("fraud", pa.bool_(), nullable=False)])
DECISIONS = pa.schema(
    [
        *_PARTIES,
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("cart", pa.list_(_ITEM), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("degraded", pa.bool_(), nullable=False),
        pa.field("synthetic", pa.bool_(), nullable=False),
        pa.field("features", pa.list_(pa.float64()), nullable=False),
        pa.field("seqs", pa.map_(pa.string(), pa.int64()), nullable=False),
    ]
)
