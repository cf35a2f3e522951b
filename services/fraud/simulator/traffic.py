"""A day of card transactions, and the labels that follow: columns of numbers, a day at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np

from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.simulator.drift import Drift, Schedule
from services.fraud.simulator.population import (
    CATEGORIES,
    CODE,
    CUSTOMERS,
    DEVICES_EACH,
    FAVOURITES,
    MERCHANTS,
    SHOPS,
    Floats,
    Ints,
    Population,
    generator,
)
from services.fraud.simulator.scenarios import (
    FRESH_DEVICES,
    RESALE_CODES,
    SHOPS_MEDIAN,
    WAVES,
    Wave,
)

START = datetime(2022, 3, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
DAY_US = 86_400_000_000
TRANSACTIONS_A_DAY = 12_000
CHARGEBACK_MEDIAN_DAYS = 7.0
LENT_PHONES = 0.015
MOST_ITEMS = 24

# How the week and the day breathe: Monday first, midnight first.
WEEK = np.array([0.92, 0.93, 0.96, 1.0, 1.15, 1.18, 0.86])
HOURS = np.array(
    [.3, .2, .12, .1, .1, .2, .6, 1.3, 2., 2.3, 2.5, 2.9, 3.4, 3., 2.5, 2.5, 2.9, 3.6, 3.9, 3.4,
     2.6, 1.8, 1.1, .6]
)  # fmt: skip
_SHOP_GOODS = [np.array([CODE[g] for g in goods]) for *_, goods in SHOPS.values()]
_GOODS_COUNT = np.array([len(goods) for goods in _SHOP_GOODS])
_GOODS = np.full((len(SHOPS), _GOODS_COUNT.max()), -1)
for _kind, _goods in enumerate(_SHOP_GOODS):
    _GOODS[_kind, : len(_goods)] = _goods
_ITEMS = np.array([items for *_, items, _ in SHOPS.values()])


@dataclass(frozen=True)
class Day:
    """One day's N transactions in order of time.

    Attributes:
        number: The day, counted from `START`.
        time: (N,) event time, microseconds since the epoch, strictly rising.
        customer, merchant: (N,) numbers. device: (N,), -1 where none was sent. ip: (N,) 32 bits.
        amount: (N,) minor units, the sum of the cart's prices.
        cart_end: (N,) end of each cart in `category` and `price`; it begins where the last ends.
        category, price: (items,) code into `CATEGORIES`, and minor units.
        scenario: (N,) the truth, 0 = genuine. Never part of an event.
        label_time: (N,) when the label becomes known, microseconds since the epoch.
    """

    number: int
    time: Ints
    customer: Ints
    merchant: Ints
    device: Ints
    ip: Ints
    amount: Ints
    cart_end: Ints
    category: Ints
    price: Ints
    scenario: Ints
    label_time: Ints

    def __len__(self) -> int:
        return len(self.time)

    def between(self, begin_us: int, end_us: int) -> "Day":
        """The part of the day within [begin_us, end_us)."""
        first, last = np.searchsorted(self.time, [begin_us, end_us])
        items = slice(*(self.cart_end[i - 1] if i else 0 for i in (first, last)))
        rows = {name: getattr(self, name)[first:last] for name in _ROWS}
        return Day(
            number=self.number,
            cart_end=self.cart_end[first:last] - items.start,
            category=self.category[items],
            price=self.price[items],
            **rows,
        )


_ROWS = ("time", "customer", "merchant", "device", "ip", "amount", "scenario", "label_time")


@dataclass(frozen=True)
class Traffic:
    """The transactions of a seed, a day at a time; any day can be asked for, in any order.

    Attributes:
        schedule: How the world changes. What was before a change stays as it was.
    """

    seed: int = 7
    schedule: Schedule = ()

    @property
    def population(self) -> Population:
        """Who exists under this seed."""
        return _population(self.seed)

    def day(self, number: int) -> Day:
        """Make day `number` since `START`. ValueError before the first."""
        if number < 0:
            raise ValueError(f"day {number}: history begins at day 0, {START:%Y-%m-%d}")
        return _day(self, number)

    def days(self, first: int, last: int) -> Iterator[Day]:
        """Days `first` up to, not including, `last`."""
        for number in range(first, last):
            yield self.day(number)


@lru_cache(maxsize=4)
def _population(seed: int) -> Population:
    return Population.of(seed)


@lru_cache(maxsize=40)
def _day(traffic: Traffic, number: int) -> Day:
    """A day, made of parts where the world changes within it."""
    begin, end = START_US + number * DAY_US, START_US + (number + 1) * DAY_US
    changes = [(0, Drift()), *traffic.schedule]
    ends = [at for at, _ in changes[1:]] + [end]
    parts = [
        _make(traffic.population, number, drift).between(max(at, begin), min(until, end))
        for (at, drift), until in zip(changes, ends, strict=True)
        if at < end and until > begin and at < until
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[Day]) -> Day:
    offsets = np.cumsum([0, *(len(part.price) for part in parts)])
    return Day(
        number=parts[0].number,
        cart_end=np.concatenate([p.cart_end + o for p, o in zip(parts, offsets, strict=False)]),
        category=np.concatenate([p.category for p in parts]),
        price=np.concatenate([p.price for p in parts]),
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ROWS},
    )


def _make(population: Population, number: int, drift: Drift) -> Day:
    rng = generator(population.seed, 1, number)
    fraud = [w for wave in WAVES for w in wave(population, number, drift) if len(w.customer)]
    genuine = _genuine(rng, population, number, drift)
    waves = [genuine, *fraud]

    customer = np.concatenate([w.customer for w in waves])
    scenario = np.repeat([w.scenario for w in waves], [len(w.customer) for w in waves])
    resale = np.repeat([w.resale for w in waves], [len(w.customer) for w in waves])
    merchant = _habit(rng, np.concatenate([w.merchant for w in waves]), population, customer)
    device = _device(rng, np.concatenate([w.device for w in waves]), population, customer, number)
    ip = _ip(rng, np.concatenate([w.ip for w in waves]), population, customer)
    median = np.concatenate([w.median for w in waves])
    second = np.concatenate([w.second for w in waves])

    order = np.argsort(second, kind="stable")
    customer, scenario, resale = customer[order], scenario[order], resale[order]
    merchant, device, ip, median = merchant[order], device[order], ip[order], median[order]
    time = _unique(START_US + number * DAY_US + (second[order] * 1e6).astype(np.int64))

    kind = population.kind[merchant]
    amount = _amounts(rng, population, customer, kind, median, drift, scenario == 0)
    counts, category, price = _carts(rng, kind, amount, resale)
    cart_end = np.cumsum(counts)
    if drift.null_device:
        device = np.where(rng.random(len(device)) < drift.null_device, -1, device)
    return Day(
        number=number, time=time, customer=customer, merchant=merchant, device=device, ip=ip,
        amount=np.add.reduceat(price, cart_end - counts), cart_end=cart_end, category=category,
        price=price, scenario=scenario, label_time=_label_times(rng, time, scenario),
    )  # fmt: skip


def _genuine(rng: np.random.Generator, population: Population, day: int, drift: Drift) -> Wave:
    """The day's ordinary shopping; the calendar's own peak is the four weeks before Christmas."""
    date = np.datetime64(START.date()) + day
    year_day = int((date - date.astype("datetime64[Y]")).astype(int))
    peak = 0.5 if 328 <= year_day <= 357 else 0.0
    level = WEEK[(START.weekday() + day) % 7] * (1 + peak) * (1 + 0.6 * drift.holiday)
    n = int(rng.poisson(TRANSACTIONS_A_DAY * level))
    customer = rng.choice(CUSTOMERS, n, p=population.weight)
    hours = np.roll(HOURS, round(6 * drift.covariate)) / HOURS.sum()
    hour = rng.choice(24, n, p=hours) + rng.random(n) + population.wake[customer]
    none = np.full(n, -1, dtype=np.int64)
    return Wave(0, customer, none, none, none, (hour % 24.0) * 3600.0, none)


def _habit(
    rng: np.random.Generator, merchant: Ints, population: Population, customer: Ints
) -> Ints:
    """Fill in the merchants that habit decides: a favourite four times in five."""
    n = len(customer)
    rank = np.minimum(rng.geometric(0.25, n) - 1, FAVOURITES - 1)
    favourite = population.favourites[customer, rank]
    chance = rng.choice(MERCHANTS, n, p=population.popularity)
    return np.where(merchant >= 0, merchant, np.where(rng.random(n) < 0.8, favourite, chance))


def _device(
    rng: np.random.Generator, device: Ints, population: Population, customer: Ints, day: int
) -> Ints:
    """Fill in devices: the usual one, now and then another or a friend's, rarely a new phone."""
    n = len(customer)
    which = rng.choice(DEVICES_EACH, n, p=[0.85, 0.12, 0.03])
    own = population.devices[customer, which]
    fresh = FRESH_DEVICES + day * 1_000 + 500 + np.arange(n) % 500
    own = np.where(rng.random(n) < 0.004, fresh, own)
    friends = population.devices[rng.integers(0, CUSTOMERS, n), 0]
    own = np.where(rng.random(n) < LENT_PHONES, friends, own)
    return np.where(device >= 0, device, own)


def _ip(rng: np.random.Generator, ip: Ints, population: Population, customer: Ints) -> Ints:
    """Fill in addresses: home, or one of the carriers' shared gateways."""
    n = len(customer)
    mobile = 0x64400000 + rng.integers(0, 2_000, n)
    own = np.where(rng.random(n) < 0.7, population.home_ip[customer], mobile)
    return np.where(ip >= 0, ip, own)


def _amounts(
    rng: np.random.Generator,
    population: Population,
    customer: Ints,
    kind: Ints,
    median: Ints,
    drift: Drift,
    genuine: np.ndarray,
) -> Ints:
    """Amounts in minor units: the shop's level, the customer's level, and chance."""
    n = len(customer)
    log = np.log(np.where(median >= 0, median, SHOPS_MEDIAN[kind])) + rng.normal(0.0, 0.55, n)
    log += np.where(median >= 0, 0.0, population.spending[customer])
    log += np.where(genuine, np.log1p(0.5 * drift.covariate + 0.2 * drift.holiday), 0.0)
    return np.maximum(np.exp(log), 100.0).astype(np.int64)


def _carts(
    rng: np.random.Generator, kind: Ints, amount: Ints, resale: np.ndarray
) -> tuple[Ints, Ints, Ints]:
    """(counts, categories, prices) of the carts; prices share out the amounts at random.

    A genuine cart draws from its shop's goods. A cart for resale keeps its size and amount and
    fills with goods for resale, several kinds of them.
    """
    n = len(kind)
    counts = np.minimum(1 + rng.poisson(_ITEMS[kind] - 1.0), MOST_ITEMS)
    counts = np.where(resale, np.maximum(counts, 3), counts)
    owner = np.repeat(np.arange(n), counts)
    goods = _GOODS[kind[owner], rng.integers(0, 1 << 31, len(owner)) % _GOODS_COUNT[kind[owner]]]
    bad = RESALE_CODES[rng.integers(0, len(RESALE_CODES), len(owner))]
    category = np.where(resale[owner], bad, goods)
    share = rng.exponential(1.0, len(owner)) + 0.15
    total = np.add.reduceat(share, np.cumsum(counts) - counts)
    price = np.maximum((amount[owner] * share / total[owner]).astype(np.int64), 1)
    return counts, category, price


def _label_times(rng: np.random.Generator, time: Ints, scenario: Ints) -> Ints:
    """When labels become known: a chargeback when the owner complains, else when none can any more.

    Complaints take a log-normal time, median seven days, within the dispute window.
    """
    window = DISPUTE_WINDOW_DAYS * 86_400.0
    delay = CHARGEBACK_MEDIAN_DAYS * 86_400.0 * rng.lognormal(0.0, 0.4, len(time))
    delay = np.where(scenario > 0, np.clip(delay, 3_600.0, window - 1.0), window)
    return time + (delay * 1e6).astype(np.int64)


def _unique(time: Ints) -> Ints:
    """Push equal times apart by a microsecond: a timestamp then orders a day totally."""
    steps = np.arange(len(time))
    return np.maximum.accumulate(time - steps) + steps


__all__ = ["CATEGORIES", "DAY_US", "START", "START_US", "Day", "Floats", "Traffic"]
