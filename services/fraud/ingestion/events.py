"""Transactions, labels and decisions as messages: fields, subjects and parsing."""

import logging
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)

from features.cluster.shards import shard_number
from services.fraud.problem import CURRENCY
from services.platform.streaming.consumer import Message
from services.platform.streaming.messages import validation_message
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

STREAM = "FRAUD"
# Cases that wait for an analyst, and what analysts decided. `review.queue` creates the streams.
REVIEWS_STREAM, VERDICTS_STREAM = "FRAUD_REVIEWS", "FRAUD_VERDICTS"
CASE, VERDICT = "fraud.case", "fraud.verdict"
DECISIONS_STREAM = "FRAUD_DECISIONS"
DEAD_STREAM = "FRAUD_DEAD"
TX, LABEL, DECISION, DEAD = "fraud.tx", "fraud.label", "fraud.decision", "fraud.dead"
STREAMS = {
    STREAM: [f"{TX}.>", f"{LABEL}.>"],
    DECISIONS_STREAM: [f"{DECISION}.>"],
    DEAD_STREAM: [f"{DEAD}.>"],
    VERDICTS_STREAM: [f"{VERDICT}.>"],
}
ENTITIES = ("customer_id", "merchant_id", "device_id", "ip")
NO_SHARD = "none"
# Reasons and reviews read declined and reviewed transactions alone, some 2 % of all: to receive
# the others cost them 100 us of CPU a decision, 40 % of the scorer's own.
_APPROVED, _FLAGGED = "approved", "flagged"
FLAGGED_DECISIONS = f"{DECISION}.*.{_FLAGGED}"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# An event from the future would make all later events of its entities late. A clock may be ahead by
# a day at most, compared with the time at which the stream received the event.
MAX_AHEAD_US = 86_400 * 1_000_000
MAX_ITEMS = 200
_DATE = re.compile(r"\d{4}-\d\d-\d\d\D", re.ASCII)


def _in_range(time: datetime) -> datetime:
    if not EARLIEST <= time < _LATEST:
        raise ValueError(f"must lie between {EARLIEST.year} and {_LATEST.year}")
    return time


def _address(text: str) -> str:
    """The canonical spelling of an IP address."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise ValueError("must be an IPv4 or IPv6 address") from None


def _iso_only(value: object) -> object:
    """Refuse numbers, as text too: pydantic would read them as seconds or milliseconds by size."""
    is_time = isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value))
    if not is_time:
        raise ValueError('must be ISO 8601 text with a date, such as "2022-04-30T12:00:00Z"')
    return value


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,63}$")]
Time = Annotated[AwareDatetime, BeforeValidator(_iso_only), AfterValidator(_in_range)]
_TIME: TypeAdapter[datetime] = TypeAdapter(Time)
Address = Annotated[
    str,
    AfterValidator(_address),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
# Zero is a card verification.
MinorUnits = Annotated[int, Field(ge=0, le=100_000_000, strict=True)]


class StrictModel(BaseModel):
    """A message that may have no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(StrictModel):
    """One line of a cart. `price_minor` is the line's total."""

    category: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    price_minor: MinorUnits


class Parties(StrictModel):
    """The parties and time of a transaction or label.

    Attributes:
        feed: Where it comes from. Each feed has a time of its own: what it sends settles by its own
            watermark (ADR 18).
    """

    transaction_id: Id
    event_time: Time
    customer_id: Id
    merchant_id: Id
    device_id: Id | None = None
    ip: Address | None = None
    feed: Id | None = None


class Transaction(Parties):
    """A card transaction to decide."""

    amount_minor: MinorUnits
    currency: Literal["EUR"] = CURRENCY
    cart: Annotated[list[Item], Field(max_length=MAX_ITEMS)] = []


Outcome = Literal["approve", "review", "decline"]


class TransactionEvent(Transaction):
    """A transaction that took place, with the decision on it; null if there was none."""

    outcome: Outcome | None = None


class LabelEvent(Parties):
    """The outcome of a transaction: charged back, or undisputed when the window closed."""

    fraud: bool

    @classmethod
    def of(cls, transaction: Parties, fraud: bool) -> "LabelEvent":
        """The label that a person gives a transaction, at the transaction's time."""
        parties = transaction.model_dump(include=set(Parties.model_fields))
        return cls(**parties, fraud=fraud)

    @property
    def message_id(self) -> str:
        """The id by which the stream recognises a label that is published twice within minutes."""
        return f"{LABEL}-{self.transaction_id}"


class DecisionEvent(StrictModel):
    """A decision of the scorer, with its features and the versions of the states it read.

    Attributes:
        synthetic: The request came from a load test; monitors leave it out.
        features: The feature vector, null for NaN.
        seqs: By view, the sequence of the row that was read: 0 for an entity without events, null
            if the row was not read.
        feature_set: Hash of the set that the features are of; null in a decision that was logged
            before decisions had it.
        model_decision: What the model alone decided; null in a decision from before rules.
        rules: Version of the rules, "version:digest"; null in a decision from before rules.
        fired: Ids of the rules that fired.
        stage_seconds: Seconds of each stage up to the decision.
        decided_at: When it was decided, seconds since the epoch by the scorer's clock.
        costs: What the outcome was decided by: the fields of `problem.CostModel`, null for an
            infinite price; null in a decision that was logged before decisions had it.
        control: A would-be decline that was approved to learn its outcome.
        propensity: Probability that the payment was not declined: of a would-be decline the
            control group's, else 1.
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
    feature_set: str | None = None
    model_decision: Outcome | None = None
    rules: str | None = None
    fired: list[str] = []
    stage_seconds: dict[str, float] = {}
    decided_at: float | None = None
    costs: dict[str, float | None] | None = None
    control: bool = False
    propensity: float = 1.0


Verdict = Literal["fraud", "genuine"]


class ReviewCase(StrictModel):
    """A decision to review.

    Attributes:
        otherwise: What is done if no analyst decides in time.
    """

    decision_id: str
    score: float
    otherwise: Literal["approve", "decline"]
    transaction: Transaction


class VerdictEvent(StrictModel):
    """What became of a reviewed transaction.

    Attributes:
        verdict: The analyst's; null if none decided in time.
        outcome: Whether the payment went through.
        waited_s: From the case's arrival in the queue until an analyst took it, or its time ran
            out.
        by: Who decided: "timeout" if no analyst did.
        transaction: What was reviewed; null in a verdict from before verdicts had it.
    """

    decision_id: str
    transaction_id: Id
    event_time: Time
    verdict: Verdict | None
    outcome: Literal["approve", "decline"]
    waited_s: Annotated[float, Field(ge=0)]
    by: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    transaction: Transaction | None = None


Event = TransactionEvent | LabelEvent
Published = TypeVar("Published", DecisionEvent, ReviewCase, VerdictEvent)


@dataclass(frozen=True)
class SimulatedEvent:
    """An event of simulated or replayed traffic.

    Attributes:
        event: A transaction to decide, or a label.
        fraud: Whether a transaction is fraud, for measuring; None if that is not known.
    """

    event: Transaction | LabelEvent
    fraud: bool | None = False


def shard(value: str | None, shards: int) -> str:
    """The shard of an entity's key as a token of a subject; "none" for an absent entity.

    >>> shard("c1", 16), shard(None, 16)
    ('1', 'none')
    """
    return NO_SHARD if value is None else str(shard_number(value, shards))


def subject(prefix: str, parties: Parties, shards: int) -> str:
    """The subject of an event: `<prefix>.<customer>.<merchant>.<device>.<ip>`, a shard each."""
    tokens = (shard(getattr(parties, entity), shards) for entity in ENTITIES)
    return ".".join((prefix, *tokens))


def decision_subject(customer_id: str, decision: Outcome, shards: int) -> str:
    """The subject of a decision: `fraud.decision.<shard of the customer>.<approved or flagged>`.

    >>> decision_subject("c1", "approve", 16), decision_subject("c1", "review", 16)
    ('fraud.decision.1.approved', 'fraud.decision.1.flagged')
    """
    token = _APPROVED if decision == "approve" else _FLAGGED
    return f"{DECISION}.{shard(customer_id, shards)}.{token}"


def parse_event(message: Message) -> Event:
    """Parse a message of the stream. ValueError names the field that is wrong."""
    kind = LabelEvent if message.subject.startswith(f"{LABEL}.") else TransactionEvent
    try:
        event = kind.model_validate_json(message.data)
    except ValidationError as error:
        raise ValueError(validation_message(error)) from None
    if microseconds(event.event_time) > message.published_us + MAX_AHEAD_US:
        raise ValueError("event_time: more than a day ahead of the clock")
    return event


def parse_published(kind: type[Published], data: bytes) -> Published:
    """A message that one of our processes published: a decision, a case or a verdict.

    Fields that it does not know are left out, since processes are replaced one after another and a
    later version may publish more. Requests and the gateway's events are strict: there, an unknown
    field is a mistake.

    Raises:
        ValueError: names the field that is wrong.
    """
    try:
        return kind.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        raise ValueError(validation_message(error)) from None


def read_published(kind: type[Published], data: bytes, reader: str) -> Published | None:
    """`parse_published`; None if it cannot be read, which is counted and logged.

    Args:
        reader: Name of the process that reads it.
    """
    try:
        return parse_published(kind, data)
    except ValueError as error:
        EVENTS.labels(reader, "unreadable").inc()
        log.error("%s: a %s cannot be read: %s", reader, kind.__name__, error)
        return None


def event_time_of(text: str) -> datetime:
    """The time of an event from its text, as `Transaction` reads it. ValueError if it is none.

    Decisions keep the text of the request, and `datetime.fromisoformat` refuses some of what RFC
    3339 allows.

    >>> event_time_of("2022-05-01t12:30:00z").isoformat()
    '2022-05-01T12:30:00+00:00'
    """
    return _TIME.validate_python(text)


def feed_name(text: str) -> str:
    """A text, such as a file's name, as the name of a feed.

    >>> feed_name("Bank A/2022.csv")
    'Bank-A-2022.csv'
    """
    return re.sub(r"[^A-Za-z0-9_.:@-]", "-", text).lstrip(".")[:64] or "-"


def microseconds(time: datetime) -> int:
    """Exact microseconds since the epoch.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (time - EPOCH) // _MICROSECOND
