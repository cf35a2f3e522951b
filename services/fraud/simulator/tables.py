"""Simulated days as events: tables for the backfill, single events for the stream."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.events import EPOCH, Item, LabelEvent, Transaction
from services.fraud.ingestion.tables import LABEL_SCHEMA, TRANSACTION_SCHEMA
from services.fraud.problem import CURRENCY, DISPUTE_WINDOW_DAYS
from services.fraud.simulator.day import DAY_US, START_US, Day
from services.fraud.simulator.population import CATEGORIES
from services.fraud.simulator.traffic import Traffic
from services.platform.types import Integers

SIMULATOR_FEED = "simulator"
_CATEGORY = pa.array(CATEGORIES)


def transaction_table(day: Day, seq: Integers) -> pa.Table:
    """A day's N transactions in the lake's schema `TRANSACTIONS`, with their sequences (N,)."""
    items = pa.StructArray.from_arrays(
        [_CATEGORY.take(pa.array(day.category)), pa.array(day.price)],
        names=["category", "price_minor"],
    )
    offsets = np.concatenate([[0], day.cart_end]).astype(np.int32)
    n = len(day)
    columns = {
        **_shared_columns(day, np.arange(n), day.time, seq),
        "amount_minor": day.amount,
        "currency": pa.array([CURRENCY]).take(pa.array(np.zeros(n, dtype=np.int64))),
        "cart": pa.ListArray.from_arrays(offsets, items),
        "outcome": pa.nulls(n, pa.string()),
    }
    return pa.table(columns).cast(TRANSACTION_SCHEMA)


def label_table(day: Day, chosen: Integers, seq: Integers) -> pa.Table:
    """Labels of some of a day's transactions in the lake's schema `LABELS`.

    Args:
        day: The simulated day.
        chosen: (K,) indices of the transactions.
        seq: (K,) sequences of the labels.
    """
    columns = _shared_columns(day, chosen, day.label_time[chosen], seq)
    return pa.table({**columns, "fraud": day.scenario[chosen] > 0}).cast(LABEL_SCHEMA)


def _shared_columns(
    day: Day, chosen: Integers, time: Integers, seq: Integers
) -> dict[str, pa.Array]:
    device = day.device[chosen]
    return {
        "seq": pa.array(seq),
        "transaction_id": _prefixed(f"t{day.number}-", chosen),
        "event_time": pa.array(time).cast(pa.timestamp("us", tz="UTC")),
        "customer_id": _prefixed("c", day.customer[chosen]),
        "merchant_id": _prefixed("m", day.merchant[chosen]),
        "device_id": pc.if_else(device >= 0, _prefixed("d", device), pa.scalar(None, pa.string())),
        "ip": _dotted(day.ip[chosen]),
        "feed": pa.array([SIMULATOR_FEED]).take(pa.array(np.zeros(len(chosen), dtype=np.int64))),
    }


def _prefixed(prefix: str, numbers: Integers) -> pa.Array:
    text = pc.cast(pa.array(numbers), pa.string())
    return pc.binary_join_element_wise(pa.scalar(prefix), text, pa.scalar(""))


def _dotted(addresses: Integers) -> pa.Array:
    octets = [pc.cast(pa.array(addresses >> s & 0xFF), pa.string()) for s in (24, 16, 8, 0)]
    return pc.binary_join_element_wise(*octets, pa.scalar("."))


def transaction(day: Day, index: int) -> Transaction:
    """One transaction of a day, as the gateway sends it to the scorer."""
    begin = int(day.cart_end[index - 1]) if index else 0
    end = int(day.cart_end[index])
    cart = [
        Item(category=CATEGORIES[c], price_minor=int(p))
        for c, p in zip(day.category[begin:end], day.price[begin:end], strict=True)
    ]
    return Transaction(
        **_shared_fields(day, index, int(day.time[index])),
        amount_minor=int(day.amount[index]),
        cart=cart,
    )


def label(day: Day, index: int) -> LabelEvent:
    """The label of one transaction of a day."""
    fields = _shared_fields(day, index, int(day.label_time[index]))
    return LabelEvent(**fields, fraud=bool(day.scenario[index] > 0))


def _shared_fields(day: Day, index: int, time_us: int) -> dict[str, Any]:
    device, ip = int(day.device[index]), int(day.ip[index])
    return {
        "transaction_id": f"t{day.number}-{index}",
        "event_time": EPOCH + timedelta(microseconds=time_us),
        "customer_id": f"c{day.customer[index]}",
        "merchant_id": f"m{day.merchant[index]}",
        "device_id": f"d{device}" if device >= 0 else None,
        "ip": ".".join(str(ip >> s & 0xFF) for s in (24, 16, 8, 0)),
        "feed": SIMULATOR_FEED,
    }


def events_of_day(traffic: Traffic, number: int) -> Iterator[tuple[int, Day, int, bool]]:
    """All events of one day in order of time.

    Returns:
        (microseconds since the epoch, day of the transaction, index in that day, whether it is a
        label); a label may belong to a transaction of an earlier day.
    """
    begin = START_US + number * DAY_US
    events: list[tuple[int, Day, int, bool]] = []
    for day in traffic.days(max(number - DISPUTE_WINDOW_DAYS, 0), number + 1):
        due = np.nonzero((day.label_time >= begin) & (day.label_time < begin + DAY_US))[0]
        events.extend((int(day.label_time[i]), day, int(i), True) for i in due)
    today = traffic.day(number)
    events.extend((int(t), today, i, False) for i, t in enumerate(today.time))
    events.sort(key=lambda event: event[0])
    return iter(events)
