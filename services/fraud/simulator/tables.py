"""From a day's numbers to events: Parquet tables for history, one by one for the stream."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.events import (
    EPOCH,
    LABELS,
    TRANSACTIONS,
    Item,
    LabelEvent,
    Transaction,
)
from services.fraud.problem import CURRENCY, DISPUTE_WINDOW_DAYS
from services.fraud.simulator.population import CATEGORIES, Ints
from services.fraud.simulator.traffic import DAY_US, START_US, Day, Traffic

_CATEGORY = pa.array(CATEGORIES)


def transaction_table(day: Day, seq: Ints) -> pa.Table:
    """A day's transactions as `ingestion.TRANSACTIONS`, with their sequences."""
    items = pa.StructArray.from_arrays(
        [_CATEGORY.take(pa.array(day.category)), pa.array(day.price)],
        names=["category", "price_minor"],
    )
    offsets = np.concatenate([[0], day.cart_end]).astype(np.int32)
    n = len(day)
    columns = {
        **_parties(day, np.arange(n), day.time, seq),
        "amount_minor": day.amount,
        "currency": pa.array([CURRENCY]).take(pa.array(np.zeros(n, dtype=np.int64))),
        "cart": pa.ListArray.from_arrays(offsets, items),
        "outcome": pa.nulls(n, pa.string()),
    }
    return pa.table(columns).cast(TRANSACTIONS)


def label_table(day: Day, chosen: Ints, seq: Ints) -> pa.Table:
    """The labels of a day's chosen transactions as `ingestion.LABELS`, with their sequences."""
    columns = _parties(day, chosen, day.label_time[chosen], seq)
    return pa.table({**columns, "fraud": day.scenario[chosen] > 0}).cast(LABELS)


def _parties(day: Day, chosen: Ints, time: Ints, seq: Ints) -> dict[str, pa.Array]:
    device = day.device[chosen]
    return {
        "seq": pa.array(seq),
        "transaction_id": _numbered(f"t{day.number}-", chosen),
        "event_time": pa.array(time).cast(pa.timestamp("us", tz="UTC")),
        "customer_id": _numbered("c", day.customer[chosen]),
        "merchant_id": _numbered("m", day.merchant[chosen]),
        "device_id": pc.if_else(device >= 0, _numbered("d", device), pa.scalar(None, pa.string())),
        "ip": _dotted(day.ip[chosen]),
    }


def _numbered(prefix: str, numbers: Ints) -> pa.Array:
    text = pc.cast(pa.array(numbers), pa.string())
    return pc.binary_join_element_wise(pa.scalar(prefix), text, pa.scalar(""))


def _dotted(addresses: Ints) -> pa.Array:
    octets = [pc.cast(pa.array(addresses >> s & 0xFF), pa.string()) for s in (24, 16, 8, 0)]
    return pc.binary_join_element_wise(*octets, pa.scalar("."))


def transaction(day: Day, index: int) -> Transaction:
    """One transaction of a day, as the gateway asks about it."""
    begin = int(day.cart_end[index - 1]) if index else 0
    end = int(day.cart_end[index])
    cart = [
        Item(category=CATEGORIES[c], price_minor=int(p))
        for c, p in zip(day.category[begin:end], day.price[begin:end], strict=True)
    ]
    return Transaction(
        **_party(day, index, int(day.time[index])),
        amount_minor=int(day.amount[index]),
        cart=cart,
    )


def label(day: Day, index: int) -> LabelEvent:
    """What becomes of one transaction of a day."""
    fields = _party(day, index, int(day.label_time[index]))
    return LabelEvent(**fields, fraud=bool(day.scenario[index] > 0))


def _party(day: Day, index: int, time_us: int) -> dict[str, Any]:
    device, ip = int(day.device[index]), int(day.ip[index])
    return {
        "transaction_id": f"t{day.number}-{index}",
        "event_time": EPOCH + timedelta(microseconds=time_us),
        "customer_id": f"c{day.customer[index]}",
        "merchant_id": f"m{day.merchant[index]}",
        "device_id": f"d{device}" if device >= 0 else None,
        "ip": ".".join(str(ip >> s & 0xFF) for s in (24, 16, 8, 0)),
    }


def merged(traffic: Traffic, number: int) -> Iterator[tuple[int, Day, int, bool]]:
    """All events of one day in order of time: (microseconds, day, index, whether a label).

    A label belongs to a transaction of one of the days before.
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
