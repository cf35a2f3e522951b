"""Five fraud scenarios. Each consists of campaigns, which begin on a day and run for some days.

A campaign depends only on the seed and its first day. A scenario's rate is the mean number of
campaigns beginning per day; together about 0.8 % of all transactions are fraud.
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
    Population,
    generator,
)
from services.platform.types import Floats, Integers

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
# Numbers from here on are fraudsters' devices and replaced phones, one block per day, and
# fraudsters' addresses.
FIRST_NEW_DEVICE = 1_000_000
FIRST_NEW_IP = 0x2D000000
RING_DAYS, RING_ACCOUNTS, RING_ACTIVE_DAYS = 28, 16, 6


@dataclass(frozen=True)
class CampaignWave:
    """N transactions of one campaign (or of ordinary shopping) on one day, as columns.

    In `merchant`, `device`, `ip` and `median`, -1 stands for the customer's habit.

    Attributes:
        scenario: Index into `SCENARIOS`.
        customer: (N,) customer numbers.
        merchant: (N,) merchant numbers.
        device: (N,) device numbers.
        ip: (N,) addresses as 32-bit numbers.
        second: (N,) second of the day.
        median: (N,) median amount, minor units.
        resale: Whether the carts hold goods for resale.
    """

    scenario: int
    customer: Integers
    merchant: Integers
    device: Integers
    ip: Integers
    second: Floats
    median: Integers
    resale: bool = False


def _by_habit(n: int) -> Integers:
    return np.full(n, -1, dtype=np.int64)


def _campaigns(
    population: Population, scenario: int, day: int, rate: float, length: int
) -> list[tuple[int, np.random.Generator]]:
    """(first day, generator) of every campaign of a scenario that is running on a day.

    The generator's state is the same on every day, so a campaign keeps its victims.
    """
    running = []
    for first in range(max(day - length + 1, 0), day + 1):
        begin = generator(population.seed, 2, scenario, first)
        for number in range(int(begin.poisson(rate))):
            running.append((first, generator(population.seed, 3, scenario, first, number)))
    return running


def _day_generator(campaign: np.random.Generator, day: int) -> np.random.Generator:
    """A campaign's generator for one day."""
    return generator(int(campaign.integers(1 << 62)), 4, day)


def stolen_card(population: Population, day: int, drift: Drift) -> list[CampaignWave]:
    """A stolen card: a burst of large purchases within two hours, at shops new to the owner."""
    waves = []
    for _, campaign in _campaigns(population, STOLEN_CARD, day, 4.0 * (1 + drift.concept), 1):
        rng = _day_generator(campaign, day)
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
            CampaignWave(
                STOLEN_CARD, customer, merchant, _by_habit(n),
                np.full(n, FIRST_NEW_IP + int(rng.integers(1 << 22))),
                start + rng.uniform(0, spread, n), median,
            )
        )  # fmt: skip
    return waves


def account_takeover(population: Population, day: int, drift: Drift) -> list[CampaignWave]:
    """A phished login: purchases from a new device and address over three days."""
    waves = []
    for first, campaign in _campaigns(population, ACCOUNT_TAKEOVER, day, 2.5, 3):
        customer = int(campaign.integers(CUSTOMERS))
        device = FIRST_NEW_DEVICE + first * 1_000 + int(campaign.integers(500))
        ip = FIRST_NEW_IP + int(campaign.integers(1 << 22))
        rng = _day_generator(campaign, day)
        n = int(rng.integers(1, 5))
        merchant = rng.choice(MERCHANTS, n, p=population.popularity)
        median = SHOPS_MEDIAN[population.kind[merchant]] * 2
        waves.append(
            CampaignWave(
                ACCOUNT_TAKEOVER, np.full(n, customer), merchant, np.full(n, device),
                np.full(n, ip), rng.uniform(0, 86_400, n), median,
            )
        )  # fmt: skip
    return waves


def compromised_merchant(population: Population, day: int, drift: Drift) -> list[CampaignWave]:
    """A skimmed terminal: for 21 days, fraudulent charges there on cards of its customers."""
    waves = []
    for _, campaign in _campaigns(population, COMPROMISED_MERCHANT, day, 0.16, 21):
        merchant = int(campaign.integers(MERCHANTS))
        rng = _day_generator(campaign, day)
        n = int(rng.integers(3, 12))
        customer = rng.choice(CUSTOMERS, n, p=population.weight)
        waves.append(
            CampaignWave(
                COMPROMISED_MERCHANT, customer, np.full(n, merchant), _by_habit(n), _by_habit(n),
                rng.uniform(6 * 3600, 23 * 3600, n), _by_habit(n),
            )
        )  # fmt: skip
    return waves


def collusion_ring(population: Population, day: int, drift: Drift) -> list[CampaignWave]:
    """A ring of mule accounts, active one after another for four weeks.

    Each purchase is ordinary: the account's own phone, usual shops and amounts. An account is idle
    by the time its chargebacks arrive. Only the graph gives a new account away: when an account
    starts, it also makes genuine payments with the phones of the three accounts that will start in
    a week, so a new account's phone was used by accounts that are being charged back now.
    """
    waves = []
    for first, campaign in _campaigns(population, COLLUSION_RING, day, 0.16, RING_DAYS):
        accounts = campaign.choice(CUSTOMERS, RING_ACCOUNTS, replace=False)
        phones = population.devices[accounts, 0]
        starts = np.arange(RING_ACCOUNTS) * 3 // 2
        age = day - first
        active = np.nonzero((starts <= age) & (age < starts + RING_ACTIVE_DAYS))[0]
        rng = _day_generator(campaign, day)
        who = rng.choice(active, int(rng.integers(2, 6)))
        waves.append(_ring_wave(rng, COLLUSION_RING, accounts[who], phones[who]))
        for starting in np.nonzero(starts == age)[0]:
            lent = phones[starting + 4 : starting + 7]
            waves.append(_ring_wave(rng, GENUINE, np.full(len(lent), accounts[starting]), lent))
    return waves


def _ring_wave(
    rng: np.random.Generator, scenario: int, customer: Integers, phone: Integers
) -> CampaignWave:
    n = len(customer)
    second = rng.uniform(8 * 3600, 22 * 3600, n)
    return CampaignWave(scenario, customer, _by_habit(n), phone, _by_habit(n), second, _by_habit(n))


def cart_fraud(population: Population, day: int, drift: Drift) -> list[CampaignWave]:
    """Stolen credentials used with the usual shop, device and amount, but goods for resale."""
    rng = generator(population.seed, 5, day)
    n = int(rng.poisson(15.0))
    customer = rng.choice(CUSTOMERS, n, p=population.weight)
    return [
        CampaignWave(
            CART_FRAUD, customer, _by_habit(n), _by_habit(n), _by_habit(n),
            rng.uniform(8 * 3600, 23 * 3600, n), _by_habit(n), resale=True,
        )
    ]  # fmt: skip


SCENARIO_WAVES: tuple[Callable[[Population, int, Drift], list[CampaignWave]], ...] = (
    stolen_card,
    account_takeover,
    compromised_merchant,
    collusion_ring,
    cart_fraud,
)
