"""Four unlike banks, cut by customer from one simulated data set.

A customer belongs to one bank, and a bank's features are aggregated from its own transactions
alone: a merchant's chargebacks at another bank are unknown to it. In the training days one bank
alone has the collusion rings, one alone the compromised merchants, and one hardly any fraud. In the
later days, on which all are evaluated, every bank meets every kind of fraud.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from services.fraud.evaluation.simulated_data import tabular_vectors
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.states import TABULAR
from services.fraud.privacy.rows import LATER, TRAIN, VALIDATION, Rows
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.population import CUSTOMERS
from services.fraud.simulator.scenarios import COLLUSION_RING, COMPROMISED_MERCHANT
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Integers

DAYS = 60
VALIDATION_DAYS, LATER_DAYS = 7, 14
MIN_DAYS = WARM_UP_DAYS + 5 + VALIDATION_DAYS + LATER_DAYS
# Victims of other fraud at the bank with hardly any.
_FEW_VICTIMS = 3


@dataclass(frozen=True)
class UncutData:
    """N simulated transactions with their truth, before they are cut into banks.

    Attributes:
        transactions: N rows in order of time.
        labels: The labels known by the end.
        day: (N,) number of the day.
        customer: (N,) number of the customer.
        scenario: (N,) index into the simulator's `SCENARIOS`; 0 for genuine.
        days: How many days there are.
    """

    transactions: pa.Table
    labels: pa.Table
    day: Integers
    customer: Integers
    scenario: Integers
    days: int

    @property
    def later_from(self) -> int:
        """The first of the later days."""
        return self.days - LATER_DAYS

    def periods(self) -> dict[str, Booleans]:
        """(N,) which transactions are of the training, validation and later days."""
        validation_from = self.later_from - VALIDATION_DAYS
        return {
            TRAIN: (self.day >= WARM_UP_DAYS) & (self.day < validation_from),
            VALIDATION: (self.day >= validation_from) & (self.day < self.later_from),
            LATER: self.day >= self.later_from,
        }

    @property
    def everything(self) -> Booleans:
        """(N,) all true."""
        return np.ones(len(self.day), dtype=bool)

    def rows(self, chosen: Booleans) -> dict[str, Rows]:
        """The chosen transactions by period, with features aggregated from these alone.

        Args:
            chosen: (N,) transactions of one bank, or of all.
        """
        own = self.transactions.filter(pa.array(chosen))
        is_own = pc.is_in(self.labels["transaction_id"], own["transaction_id"].combine_chunks())
        vectors = tabular_vectors(own, self.labels.filter(is_own))
        everything = Rows(
            TABULAR, vectors.astype(np.float32), self.scenario[chosen] > 0,
            own["amount_minor"].to_numpy().astype(np.float64), self.customer[chosen],
        )  # fmt: skip
        return {name: everything.select(of[chosen]) for name, of in self.periods().items()}


def simulate(seed: int, days: int, step: ProgressCallback) -> UncutData:
    """Simulate a data set of some days.

    Raises:
        ValueError: too few days to train, validate and evaluate on.
    """
    if days < MIN_DAYS:
        raise ValueError(f"{days} days: at least {MIN_DAYS} are needed")
    history = simulate_days(Traffic(seed), days, step)
    pairs = list(zip(history.days, history.seqs, strict=True))
    known = [np.nonzero(seqs)[0] for _, (_, seqs) in pairs]
    return UncutData(
        transactions=pa.concat_tables([transaction_table(d, seq) for d, (seq, _) in pairs]),
        labels=pa.concat_tables(
            [label_table(d, k, s[k]) for (d, (_, s)), k in zip(pairs, known, strict=True)]
        ),
        day=np.concatenate([np.full(len(day), day.number) for day in history.days]),
        customer=np.concatenate([day.customer for day in history.days]),
        scenario=np.concatenate([day.scenario for day in history.days]),
        days=days,
    )


def bank_sizes(banks: int, customers: int = CUSTOMERS) -> list[int]:
    """Customers of each bank, each twice as large as the next.

    >>> bank_sizes(4, 150)
    [80, 40, 20, 10]
    """
    shares = 2.0 ** np.arange(banks)[::-1]
    ends = np.round(np.cumsum(shares) / shares.sum() * customers).astype(int)
    return np.diff(ends, prepend=0).tolist()


def assign(customer: Integers, scenario: Integers, sizes: list[int], seed: int) -> Integers:
    """The bank of each customer, so that the banks see unlike fraud.

    Customers of rings go to the second bank, victims of compromised merchants to the first, other
    victims to any but the last, which gets `_FEW_VICTIMS` of them; the others fill the seats left.

    Args:
        customer: (N,) customers of the transactions of the training days.
        scenario: (N,) their scenarios.
        sizes: Customers of each bank.
        seed: Of the random choices.

    Returns:
        (sum(sizes),) numbers of banks from 0.

    Raises:
        ValueError: a kind of fraud has more victims than its bank has seats.
    """
    rng = np.random.default_rng(seed)
    bank = np.full(sum(sizes), -1)
    seats = np.array(sizes)

    def seat(customers: Integers, banks: Integers) -> None:
        bank[customers] = banks
        np.subtract.at(seats, banks, 1)

    def victims(chosen: Booleans) -> Integers:
        found = np.unique(customer[chosen])
        return rng.permutation(found[bank[found] < 0])

    for kind, home in ((COLLUSION_RING, 1), (COMPROMISED_MERCHANT, 0)):
        found = victims(scenario == kind)
        if len(found) > seats[home]:
            raise ValueError(f"{len(found)} victims of one kind: more than bank {home + 1} holds")
        seat(found, np.full(len(found), home))
    others, last = victims(scenario > 0), len(sizes) - 1
    seat(others[:_FEW_VICTIMS], np.full(len(others[:_FEW_VICTIMS]), last))
    rest = others[_FEW_VICTIMS:]
    free = rng.permutation(np.repeat(np.arange(last), seats[:last]))
    if len(rest) > len(free):
        raise ValueError(f"{len(rest)} victims of fraud: more than the banks hold")
    seat(rest, free[: len(rest)])
    seat(np.nonzero(bank < 0)[0], rng.permutation(np.repeat(np.arange(last + 1), seats)))
    return bank


def cut(data: UncutData, banks: int, seed: int) -> Integers:
    """(C,) the bank of each customer of a data set, from 0. ValueError as of `assign`."""
    known = data.periods()[TRAIN]
    return assign(data.customer[known], data.scenario[known], bank_sizes(banks), seed)
