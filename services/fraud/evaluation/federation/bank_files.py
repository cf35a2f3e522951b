"""The banks' rows as files, each bank's in a folder of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.fraud.evaluation.federation.banks import MIN_DAYS, UncutData, cut, simulate
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.privacy.job import Bank
from services.fraud.privacy.rows import LATER, TRAIN, Rows, concatenate

# The rows that the banks may see for the normalisation: of another seed's data set.
_PUBLIC_SEED_OFFSET, _PUBLIC_ROWS = 1_000, 20_000


@dataclass(frozen=True)
class BankFiles:
    """One seed's banks on disk: a folder has a file for each period.

    Attributes:
        banks: The banks.
        pooled: As one bank: all their rows, each with its own bank's features.
        shared: As one bank: all rows, with features aggregated over all of them.
        public: File with rows that all may see.
        shared_folders: By bank, its rows of the later periods with the features of `shared`.
        largest: Rows that the largest bank trains on.
    """

    banks: tuple[Bank, ...]
    pooled: Bank
    shared: Bank
    public: Path
    shared_folders: tuple[Path, ...]
    largest: int


def prepare(
    folder: Path, request: FederationRequest, seed: int, step: Callable[[int, int], None]
) -> BankFiles:
    """Simulate a data set, cut it, and write each bank's rows into a folder of its own.

    Only files stay: rows kept in memory took 1.5 GB through the whole run.
    """
    banks = tuple(Bank(n, folder / f"bank-{n}") for n in range(1, request.banks + 1))
    pooled, shared = Bank(1, folder / "pooled"), Bank(1, folder / "shared")
    shared_folders = tuple(shared.folder / f"bank-{bank.number}" for bank in banks)
    largest = _write_banks(
        banks, pooled, shared, shared_folders, simulate(seed, request.days, step), seed
    )
    public = folder / "public.npz"
    write_public(public, seed)
    return BankFiles(banks, pooled, shared, public, shared_folders, largest)


def _write_banks(
    banks: Sequence[Bank],
    pooled: Bank,
    shared: Bank,
    shared_folders: Sequence[Path],
    data: UncutData,
    seed: int,
) -> int:
    """Write all rows of a data set. Returns the rows that the largest bank trains on."""
    bank_of = cut(data, len(banks), seed)
    for number, bank in enumerate(banks):
        _write(data.rows(bank_of[data.customer] == number), bank.folder)
    train = [Rows.load(bank.folder / f"{TRAIN}.npz") for bank in banks]
    concatenate(train).save(pooled.folder / f"{TRAIN}.npz")
    everything = data.rows(data.everything)
    everything.pop(TRAIN).save(shared.folder / f"{TRAIN}.npz")
    for number, its_folder in enumerate(shared_folders):
        own = {name: of.select(bank_of[of.customer] == number) for name, of in everything.items()}
        _write(own, its_folder)
    return max(map(len, train))


def _write(periods: Mapping[str, Rows], folder: Path) -> None:
    for name, rows in periods.items():
        rows.save(folder / f"{name}.npz")


def write_bank(
    folder: Path,
    request: FederationRequest,
    seed: int,
    number: int,
    step: Callable[[int, int], None],
) -> None:
    """Write the rows of one bank (from 1), the same as `prepare` gives it."""
    data = simulate(seed, request.days, step)
    own = cut(data, request.banks, seed)[data.customer] == number - 1
    _write(data.rows(own), folder)


def write_public(path: Path, seed: int) -> None:
    """Write rows of another data set, which stand for a sample that the banks agreed to publish."""
    seed += _PUBLIC_SEED_OFFSET
    data = simulate(seed, MIN_DAYS, lambda *_: None)
    sample = data.rows(data.everything)[LATER]
    chosen = np.zeros(len(sample), dtype=bool)
    chosen[:: max(len(sample) // _PUBLIC_ROWS, 1)] = True
    sample.select(chosen).save(path)
