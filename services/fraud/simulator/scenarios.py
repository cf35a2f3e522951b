"""Five ways to commit fraud. Each is a campaign: it begins on a day and runs for some days.

A campaign is drawn from the seed and its first day alone. A scenario's rate is the mean number of
campaigns that begin a day; rates and sizes together make about 0.8 % of all transactions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.fraud.simulator.drift import Drift
from services.fraud.simulator.population import (
    CODE,
    CUSTOMERS,
    MERCHANTS,
    RESALE,
    SHOPS,
    Floats,
    Ints,
    Population,
    generator,
)

GENUINE, STOLEN_CARD, ACCOUNT_TAKEOVER, COMPROMISED_MERCHANT, COLLUSION_RING, CART_FRAUD = range(6)
SCENARIOS = (
    "genuine",
    "stolen_card",
    "account_takeover",
    "compromised_merchant",
    "collusion_ring",
    "cart_fraud",
)
SHOPS_MEDIAN = np.array([median for _, median, *_ in SHOPS.values()])
RESALE_CODES = np.array([CODE[name] for name in RESALE])
# Numbers above these belong to fraudsters and to replaced phones, one block a day.
FRESH_DEVICES = 1_000_000
FRESH_IPS = 0x2D000000
RING_DAYS, RING_ACCOUNTS, RING_ACTIVE_DAYS = 28, 16, 6


@dataclass(frozen=True)
class Wave:
    """What one scenario adds to one day: N transactions, as columns.

    `merchant`, `device`, `ip` and `median` are -1 where the customer's own habit decides.
    `median` is the median amount in minor units, `second` the second of the day, and `resale`
    says that the cart holds goods for resale.
    """

    scenario: int
    customer: Ints
    merchant: Ints
    device: Ints
    ip: Ints
    second: Floats
    median: Ints
    resale: bool = False


def _none(n: int) -> Ints:
    return np.full(n, -1, dtype=np.int64)


def _campaigns(
    population: Population, scenario: int, day: int, rate: float, length: int
) -> list[tuple[int, np.random.Generator]]:
    """(first day, generator) of every campaign of a scenario that is running on a day.

    The generator is at the same state whichever day asks, so a campaign keeps its victims.
    """
    running = []
    for first in range(max(day - length + 1, 0), day + 1):
        begin = generator(population.seed, 2, scenario, first)
        for number in range(int(begin.poisson(rate))):
            running.append((first, generator(population.seed, 3, scenario, first, number)))
    return running


def _today(campaign: np.random.Generator, day: int) -> np.random.Generator:
    """A generator for what a campaign does on one day."""
    return generator(int(campaign.integers(1 << 62)), 4, day)


def stolen_card(population: Population, day: int, drift: Drift) -> list[Wave]:
    """A leaked card: a burst of large purchases within two hours, at shops the owner never saw."""
    waves = []
    for _, campaign in _campaigns(population, STOLEN_CARD, day, 4.0 * (1 + drift.concept), 1):
        rng = _today(campaign, day)
        n = int(rng.integers(4, 10))
        customer = np.full(n, rng.integers(CUSTOMERS))
        merchant = rng.choice(MERCHANTS, n)
        median = SHOPS_MEDIAN[population.kind[merchant]] * 3
        spread = 7_200.0
        if rng.random() < drift.concept:
            merchant = rng.choice(population.favourites[customer[0]], n)
            median = np.full(n, 900)
            spread = 36_000.0
        start = rng.uniform(0, 86_400 - spread)
        waves.append(
            Wave(
                STOLEN_CARD, customer, merchant, _none(n),
                np.full(n, FRESH_IPS + int(rng.integers(1 << 22))),
                start + rng.uniform(0, spread, n), median,
            )
        )  # fmt: skip
    return waves


def account_takeover(population: Population, day: int, drift: Drift) -> list[Wave]:
    """A phished login: a device and an address not seen before, over three days."""
    waves = []
    for first, campaign in _campaigns(population, ACCOUNT_TAKEOVER, day, 2.5, 3):
        customer = int(campaign.integers(CUSTOMERS))
        device = FRESH_DEVICES + first * 1_000 + int(campaign.integers(500))
        ip = FRESH_IPS + int(campaign.integers(1 << 22))
        rng = _today(campaign, day)
        n = int(rng.integers(1, 5))
        merchant = rng.choice(MERCHANTS, n, p=population.popularity)
        median = SHOPS_MEDIAN[population.kind[merchant]] * 2
        waves.append(
            Wave(
                ACCOUNT_TAKEOVER, np.full(n, customer), merchant, np.full(n, device),
                np.full(n, ip), rng.uniform(0, 86_400, n), median,
            )
        )  # fmt: skip
    return waves


def compromised_merchant(population: Population, day: int, drift: Drift) -> list[Wave]:
    """A skimmed terminal: for 21 days, cards that pay there are charged by someone else too."""
    waves = []
    for _, campaign in _campaigns(population, COMPROMISED_MERCHANT, day, 0.16, 21):
        merchant = int(campaign.integers(MERCHANTS))
        rng = _today(campaign, day)
        n = int(rng.integers(3, 12))
        customer = rng.choice(CUSTOMERS, n, p=population.weight)
        waves.append(
            Wave(
                COMPROMISED_MERCHANT, customer, np.full(n, merchant), _none(n), _none(n),
                rng.uniform(6 * 3600, 23 * 3600, n), _none(n),
            )
        )  # fmt: skip
    return waves


def collusion_ring(population: Population, day: int, drift: Drift) -> list[Wave]:
    """Mule accounts in league for four weeks, one taking over from another.

    Each purchase is ordinary: the account's own phone, its usual shops and amounts. By the time
    an account is charged back, it is idle. What gives a fresh one away is the company it keeps:
    when an account starts, it also pays, honestly, with the phones of the three that will follow
    in a week, so a fresh account's phone was lent to accounts that are being charged back now.
    """
    waves = []
    for first, campaign in _campaigns(population, COLLUSION_RING, day, 0.16, RING_DAYS):
        accounts = campaign.choice(CUSTOMERS, RING_ACCOUNTS, replace=False)
        phones = population.devices[accounts, 0]
        starts = np.arange(RING_ACCOUNTS) * 3 // 2
        age = day - first
        active = np.nonzero((starts <= age) & (age < starts + RING_ACTIVE_DAYS))[0]
        rng = _today(campaign, day)
        who = rng.choice(active, int(rng.integers(2, 6)))
        waves.append(_ring_wave(rng, COLLUSION_RING, accounts[who], phones[who]))
        for fresh in np.nonzero(starts == age)[0]:
            lent = phones[fresh + 4 : fresh + 7]
            waves.append(_ring_wave(rng, GENUINE, np.full(len(lent), accounts[fresh]), lent))
    return waves


def _ring_wave(rng: np.random.Generator, scenario: int, customer: Ints, phone: Ints) -> Wave:
    n = len(customer)
    second = rng.uniform(8 * 3600, 22 * 3600, n)
    return Wave(scenario, customer, _none(n), phone, _none(n), second, _none(n))


def cart_fraud(population: Population, day: int, drift: Drift) -> list[Wave]:
    """Stolen credentials used with care: usual shop, device and amount; goods for resale."""
    rng = generator(population.seed, 5, day)
    n = int(rng.poisson(15.0))
    customer = rng.choice(CUSTOMERS, n, p=population.weight)
    return [
        Wave(
            CART_FRAUD, customer, _none(n), _none(n), _none(n),
            rng.uniform(8 * 3600, 23 * 3600, n), _none(n), resale=True,
        )
    ]  # fmt: skip


WAVES: tuple[Callable[[Population, int, Drift], list[Wave]], ...] = (
    stolen_card,
    account_takeover,
    compromised_merchant,
    collusion_ring,
    cart_fraud,
)
