"""Replay: the transactions of a file and their labels, as events in order of time."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from services.fraud.ingestion.events import LabelEvent, SimulatedEvent, Transaction, microseconds
from services.fraud.ingestion.mapping import FileMapping, is_missing
from services.fraud.ingestion.rejections import InvalidField
from services.fraud.ingestion.time_bounds import time_of
from services.fraud.ingestion.transaction_file import TransactionFile, TransactionRow

_MICROSECOND = timedelta(microseconds=1)


@dataclass
class LabelCounts:
    """Transactions of a replay without a label event.

    Attributes:
        unknown: The file does not tell the label yet.
        not_due: The label falls due after now.
    """

    unknown: int = 0
    not_due: int = 0


def replayed_events(
    source: TransactionFile,
    since: datetime | None = None,
    after: datetime | None = None,
    counts: LabelCounts | None = None,
) -> Iterator[SimulatedEvent]:
    """The transactions of a file and their labels, in order of event time; labels go first.

    Invalid rows are counted in `source.rejections` as they are reached.

    Args:
        source: The file.
        since: Leave out earlier transactions, and their labels.
        after: Only events after this time: an earlier replay got this far.
        counts: Receives the number of transactions without a label event.
    """
    counts = counts if counts is not None else LabelCounts()
    return heapq.merge(
        _labels(source, since, after, counts),
        _transactions(source, since, after, counts),
        key=lambda one: one.event.event_time,
    )


def read_transaction(row: TransactionRow, mapping: FileMapping) -> tuple[Transaction, bool | None]:
    """A row as a transaction, and whether it is fraud: None if that is not known.

    Raises:
        InvalidField: a value is missing or cannot be read.
    """
    fields: dict[str, Any] = {"event_time": time_of(row.time_us)}
    for name in ("transaction_id", "customer_id", "merchant_id", "device_id"):
        text = row.texts[name]
        if not is_missing(text):
            fields[name] = mapping.identifier(name, str(text))
        elif name != "device_id":
            raise InvalidField(name, "is missing")
    ip = row.texts["ip"]
    if not is_missing(ip):
        fields["ip"] = str(ip).strip()
    amount = row.texts["amount"]
    if is_missing(amount):
        raise InvalidField("amount", "is missing")
    fields["amount_minor"] = mapping.amount_minor(str(amount))
    fraud = mapping.label(row.texts["fraud"])
    try:
        return Transaction(**fields), fraud
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]).removesuffix("_minor")
        raise InvalidField(name, f"is refused: {first['msg']}") from None


def _transactions(
    source: TransactionFile, since: datetime | None, after: datetime | None, counts: LabelCounts
) -> Iterator[SimulatedEvent]:
    for row in source.read(_first_us(since, after)):
        try:
            transaction, fraud = read_transaction(row, source.mapping)
        except InvalidField as error:
            source.rejections.add(row.row, error, row.texts.get(error.field))
            continue
        counts.unknown += fraud is None
        yield SimulatedEvent(transaction, fraud)


def _labels(
    source: TransactionFile, since: datetime | None, after: datetime | None, counts: LabelCounts
) -> Iterator[SimulatedEvent]:
    """Labels in order of time: the delay is the same for all, so it is the transactions' order.

    The file is read a second time rather than holding the labels of the delay's days.
    """
    delay = timedelta(days=source.mapping.label_delay_days)
    for row in source.read(_first_us(since, after and after - delay)):
        try:
            transaction, fraud = read_transaction(row, source.mapping)
        except InvalidField:
            continue
        if fraud is None:
            continue
        due = transaction.event_time + delay
        if due > source.now:
            counts.not_due += 1
            continue
        parties = transaction.model_dump(exclude={"event_time", "amount_minor", "currency", "cart"})
        yield SimulatedEvent(LabelEvent(**parties, event_time=due, fraud=fraud))


def _first_us(since: datetime | None, after: datetime | None) -> int | None:
    starts = [since] if since else []
    if after:
        starts.append(after + _MICROSECOND)
    return microseconds(max(starts)) if starts else None
