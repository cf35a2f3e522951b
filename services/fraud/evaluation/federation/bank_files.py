"""The banks' rows as files, each bank's in a folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.fraud.evaluation.federation.banks import MIN_DAYS, cut, simulate
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.privacy.job import Bank
from services.fraud.privacy.rows import LATER, TRAIN, Rows, concatenate

# The rows that the banks may see for the normalisation: of another seed's world.
_PUBLIC_SEED_OFFSET, _PUBLIC_ROWS = 1_000, 20_000


@dataclass(frozen=True)
class BankFiles:
    """One seed's banks on disk, and in memory for the evaluation.

    Attributes:
        banks: The banks.
        pooled: As one bank: all their rows, each with its own bank's features.
        shared: As one bank: all rows, with features aggregated over all of them.
        public: File with rows that all may see.
        rows: By bank, the rows of each period.
        shared_rows: By bank, the same rows with the features of `shared`.
    """

    banks: tuple[Bank, ...]
    pooled: Bank
    shared: Bank
    public: Path
    rows: list[dict[str, Rows]]
    shared_rows: list[dict[str, Rows]]


def prepare(
    folder: Path, request: FederationRequest, seed: int, step: Callable[[int, int], None]
) -> BankFiles:
    """Simulate a world, cut it, and write each bank's rows into a folder of its own."""
    world = simulate(seed, request.days, step)
    bank_of = cut(world, request.banks, seed)
    at = bank_of[world.customer]
    rows = [world.rows(at == number) for number in range(request.banks)]
    everything = world.rows(world.everything)
    shared_rows = [
        {name: of.select(bank_of[of.customer] == n) for name, of in everything.items()}
        for n in range(request.banks)
    ]
    banks = tuple(Bank(n, folder / f"bank-{n}") for n in range(1, request.banks + 1))
    pooled, shared = Bank(1, folder / "pooled"), Bank(1, folder / "shared")
    for bank, of in zip(banks, rows, strict=True):
        of[TRAIN].save(bank.folder / f"{TRAIN}.npz")
    concatenate([of[TRAIN] for of in rows]).save(pooled.folder / f"{TRAIN}.npz")
    everything[TRAIN].save(shared.folder / f"{TRAIN}.npz")
    public = folder / "public.npz"
    _public_rows(seed).save(public)
    return BankFiles(banks, pooled, shared, public, rows, shared_rows)


def _public_rows(seed: int) -> Rows:
    """Rows of another world, which stand for a sample that the banks agreed to publish."""
    seed += _PUBLIC_SEED_OFFSET
    world = simulate(seed, MIN_DAYS, lambda *_: None)
    sample = world.rows(world.everything)[LATER]
    chosen = np.zeros(len(sample), dtype=bool)
    chosen[:: max(len(sample) // _PUBLIC_ROWS, 1)] = True
    return sample.select(chosen)
