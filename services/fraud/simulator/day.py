"""A day of simulated card transactions, as columns of numbers."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from services.platform.types import Integers

START = datetime(2022, 3, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Day:
    """One day's N transactions in order of time.

    Attributes:
        number: The day, counted from `START`.
        time: (N,) event time, microseconds since the epoch, strictly increasing.
        customer: (N,) customer numbers.
        merchant: (N,) merchant numbers.
        device: (N,) device numbers, -1 where none was sent.
        ip: (N,) addresses as 32-bit numbers.
        amount: (N,) minor units, the sum of the cart's prices.
        cart_end: (N,) end of each cart in `category` and `price`; carts are contiguous.
        category: (items,) index into `CATEGORIES`.
        price: (items,) minor units.
        scenario: (N,) the truth, index into `SCENARIOS`. Never part of an event.
        label_time: (N,) when the label becomes known, microseconds since the epoch.
    """

    number: int
    time: Integers
    customer: Integers
    merchant: Integers
    device: Integers
    ip: Integers
    amount: Integers
    cart_end: Integers
    category: Integers
    price: Integers
    scenario: Integers
    label_time: Integers

    def __len__(self) -> int:
        return len(self.time)

    def between(self, begin_us: int, end_us: int) -> "Day":
        """The transactions within [begin_us, end_us), microseconds since the epoch."""
        first, last = np.searchsorted(self.time, [begin_us, end_us])
        items = slice(*(self.cart_end[i - 1] if i else 0 for i in (first, last)))
        rows = {name: getattr(self, name)[first:last] for name in _ROW_COLUMNS}
        return Day(
            number=self.number,
            cart_end=self.cart_end[first:last] - items.start,
            category=self.category[items],
            price=self.price[items],
            **rows,
        )


_ROW_COLUMNS = ("time", "customer", "merchant", "device", "ip", "amount", "scenario", "label_time")


def concatenate(parts: list[Day]) -> Day:
    """One day from parts in order of time."""
    offsets = np.cumsum([0, *(len(part.price) for part in parts)])
    return Day(
        number=parts[0].number,
        cart_end=np.concatenate([p.cart_end + o for p, o in zip(parts, offsets, strict=False)]),
        category=np.concatenate([p.category for p in parts]),
        price=np.concatenate([p.price for p in parts]),
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ROW_COLUMNS},
    )
