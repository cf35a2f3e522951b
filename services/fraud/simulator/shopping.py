"""Simulate one day: genuine shopping and fraud campaigns, with habits, amounts and carts."""

import numpy as np

from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.simulator.day import DAY_US, START, START_US, Day
from services.fraud.simulator.drift import Drift
from services.fraud.simulator.population import (
    CODE,
    CUSTOMERS,
    DEVICES_PER_CUSTOMER,
    FAVOURITES,
    MERCHANTS,
    SHOPS,
    Population,
    generator,
)
from services.fraud.simulator.scenarios import (
    FIRST_NEW_DEVICE,
    RESALE_CODES,
    SCENARIO_WAVES,
    SHOPS_MEDIAN,
    CampaignWave,
)
from services.platform.types import Integers

TRANSACTIONS_PER_DAY = 12_000
CHARGEBACK_MEDIAN_DAYS = 7.0
LENT_DEVICE_SHARE = 0.015
MAX_ITEMS = 24

# Relative volume by day of the week (Monday first) and by hour (midnight first).
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


def simulate_day(population: Population, number: int, drift: Drift) -> Day:
    """Simulate day `number` since `START`, with one drift throughout."""
    rng = generator(population.seed, 1, number)
    fraud = [
        w for wave in SCENARIO_WAVES for w in wave(population, number, drift) if len(w.customer)
    ]
    genuine = _genuine(rng, population, number, drift)
    waves = [genuine, *fraud]

    customer = np.concatenate([w.customer for w in waves])
    scenario = np.repeat([w.scenario for w in waves], [len(w.customer) for w in waves])
    resale = np.repeat([w.resale for w in waves], [len(w.customer) for w in waves])
    merchant = _fill_merchants(
        rng, np.concatenate([w.merchant for w in waves]), population, customer
    )
    device = _fill_devices(
        rng, np.concatenate([w.device for w in waves]), population, customer, number
    )
    ip = _fill_ips(rng, np.concatenate([w.ip for w in waves]), population, customer)
    median = np.concatenate([w.median for w in waves])
    second = np.concatenate([w.second for w in waves])

    order = np.argsort(second, kind="stable")
    customer, scenario, resale = customer[order], scenario[order], resale[order]
    merchant, device, ip, median = merchant[order], device[order], ip[order], median[order]
    time = _strictly_increasing(START_US + number * DAY_US + (second[order] * 1e6).astype(np.int64))

    kind = population.kind[merchant]
    amount = _draw_amounts(rng, population, customer, kind, median, drift, scenario == 0)
    counts, category, price = _draw_carts(rng, kind, amount, resale)
    cart_end = np.cumsum(counts)
    if drift.null_device:
        device = np.where(rng.random(len(device)) < drift.null_device, -1, device)
    return Day(
        number=number, time=time, customer=customer, merchant=merchant, device=device, ip=ip,
        amount=np.add.reduceat(price, cart_end - counts), cart_end=cart_end, category=category,
        price=price, scenario=scenario, label_time=_label_times(rng, time, scenario),
    )  # fmt: skip


def _genuine(
    rng: np.random.Generator, population: Population, day: int, drift: Drift
) -> CampaignWave:
    """The day's genuine transactions, with a peak in the four weeks before Christmas."""
    date = np.datetime64(START.date()) + day
    year_day = int((date - date.astype("datetime64[Y]")).astype(int))
    peak = 0.5 if 328 <= year_day <= 357 else 0.0
    level = WEEK[(START.weekday() + day) % 7] * (1 + peak) * (1 + 0.6 * drift.holiday)
    n = int(rng.poisson(TRANSACTIONS_PER_DAY * level))
    customer = rng.choice(CUSTOMERS, n, p=population.weight)
    hours = np.roll(HOURS, round(6 * drift.covariate)) / HOURS.sum()
    hour = rng.choice(24, n, p=hours) + rng.random(n) + population.hour_shift[customer]
    none = np.full(n, -1, dtype=np.int64)
    return CampaignWave(0, customer, none, none, none, (hour % 24.0) * 3600.0, none)


def _fill_merchants(
    rng: np.random.Generator, merchant: Integers, population: Population, customer: Integers
) -> Integers:
    """Fill in the merchants that are -1: a favourite in four of five cases."""
    n = len(customer)
    rank = np.minimum(rng.geometric(0.25, n) - 1, FAVOURITES - 1)
    favourite = population.favourites[customer, rank]
    chance = rng.choice(MERCHANTS, n, p=population.popularity)
    return np.where(merchant >= 0, merchant, np.where(rng.random(n) < 0.8, favourite, chance))


def _fill_devices(
    rng: np.random.Generator, device: Integers, population: Population, customer: Integers, day: int
) -> Integers:
    """Fill in the devices that are -1: mostly the usual one, else another, a friend's or a new."""
    n = len(customer)
    which = rng.choice(DEVICES_PER_CUSTOMER, n, p=[0.85, 0.12, 0.03])
    own = population.devices[customer, which]
    fresh = FIRST_NEW_DEVICE + day * 1_000 + 500 + np.arange(n) % 500
    own = np.where(rng.random(n) < 0.004, fresh, own)
    friends = population.devices[rng.integers(0, CUSTOMERS, n), 0]
    own = np.where(rng.random(n) < LENT_DEVICE_SHARE, friends, own)
    return np.where(device >= 0, device, own)


def _fill_ips(
    rng: np.random.Generator, ip: Integers, population: Population, customer: Integers
) -> Integers:
    """Fill in the addresses that are -1: home, or a mobile carrier's shared gateway."""
    n = len(customer)
    mobile = 0x64400000 + rng.integers(0, 2_000, n)
    own = np.where(rng.random(n) < 0.7, population.home_ip[customer], mobile)
    return np.where(ip >= 0, ip, own)


def _draw_amounts(
    rng: np.random.Generator,
    population: Population,
    customer: Integers,
    kind: Integers,
    median: Integers,
    drift: Drift,
    genuine: np.ndarray,
) -> Integers:
    """(N,) amounts, minor units: log-normal around the shop's median and the customer's level."""
    n = len(customer)
    log = np.log(np.where(median >= 0, median, SHOPS_MEDIAN[kind])) + rng.normal(0.0, 0.55, n)
    log += np.where(median >= 0, 0.0, population.spending[customer])
    log += np.where(genuine, np.log1p(0.5 * drift.covariate + 0.2 * drift.holiday), 0.0)
    return np.maximum(np.exp(log), 100.0).astype(np.int64)


def _draw_carts(
    rng: np.random.Generator, kind: Integers, amount: Integers, resale: np.ndarray
) -> tuple[Integers, Integers, Integers]:
    """Carts whose prices are a random partition of the amounts.

    A genuine cart draws from its shop's goods. A resale cart has the same amount and at least three
    items, all goods for resale.

    Returns:
        (N,) item counts; (items,) categories; (items,) prices, minor units.
    """
    n = len(kind)
    counts = np.minimum(1 + rng.poisson(_ITEMS[kind] - 1.0), MAX_ITEMS)
    counts = np.where(resale, np.maximum(counts, 3), counts)
    owner = np.repeat(np.arange(n), counts)
    goods = _GOODS[kind[owner], rng.integers(0, 1 << 31, len(owner)) % _GOODS_COUNT[kind[owner]]]
    bad = RESALE_CODES[rng.integers(0, len(RESALE_CODES), len(owner))]
    category = np.where(resale[owner], bad, goods)
    share = rng.exponential(1.0, len(owner)) + 0.15
    total = np.add.reduceat(share, np.cumsum(counts) - counts)
    price = np.maximum((amount[owner] * share / total[owner]).astype(np.int64), 1)
    return counts, category, price


def _label_times(rng: np.random.Generator, time: Integers, scenario: Integers) -> Integers:
    """(N,) times when labels become known, microseconds since the epoch.

    A fraud's label is the owner's chargeback, after a log-normal time with a median of seven days
    within the dispute window. A genuine transaction's label is the end of the dispute window.
    """
    window = DISPUTE_WINDOW_DAYS * 86_400.0
    delay = CHARGEBACK_MEDIAN_DAYS * 86_400.0 * rng.lognormal(0.0, 0.4, len(time))
    delay = np.where(scenario > 0, np.clip(delay, 3_600.0, window - 1.0), window)
    return time + (delay * 1e6).astype(np.int64)


def _strictly_increasing(time: Integers) -> Integers:
    """Push equal times apart by a microsecond, so that time orders a day totally.

    Examples:
        >>> _strictly_increasing(np.array([5, 5, 5, 9])).tolist()
        [5, 6, 7, 9]
    """
    steps = np.arange(len(time))
    return np.maximum.accumulate(time - steps) + steps
