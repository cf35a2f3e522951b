"""A bank's labelled transactions as a file, and what a bank checks before it takes part.

Imports numpy alone: banks read these files in an environment of their own.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from services.platform.types import Booleans, Floats, Floats32, Integers

TRAIN, VALIDATION, LATER = "train", "validation", "later"
MIN_ROWS = 200


class BadBank(ValueError):
    """A bank's rows cannot be trained on; the message says why."""


@dataclass(frozen=True)
class Rows:
    """N labelled transactions.

    Attributes:
        names: (F,) names of the features.
        vectors: (N, F) features as of just before each transaction, from the bank's own events.
        fraud: (N,) outcome.
        amount: (N,) minor units.
        customer: (N,) number of the customer.
    """

    names: tuple[str, ...]
    vectors: Floats32
    fraud: Booleans
    amount: Floats
    customer: Integers

    def __len__(self) -> int:
        return len(self.fraud)

    def select(self, chosen: Booleans) -> "Rows":
        """The rows where `chosen` (N,) is true."""
        return Rows(
            self.names, self.vectors[chosen], self.fraud[chosen], self.amount[chosen],
            self.customer[chosen],
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write a file that `load` reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        names = np.array(self.names)
        np.savez(
            path, names=names, vectors=self.vectors, fraud=self.fraud, amount=self.amount,
            customer=self.customer,
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "Rows":
        """Read a file that `save` wrote.

        Raises:
            BadBank: it cannot be read as such.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    tuple(file["names"].tolist()), file["vectors"], file["fraud"], file["amount"],
                    file["customer"],
                )  # fmt: skip
        except (OSError, ValueError, EOFError, KeyError, BadZipFile, TypeError) as error:
            raise BadBank(f"{path.name} has no rows that can be read: {error}") from None


def concatenate(parts: list[Rows]) -> Rows:
    """The rows of several banks; customers keep their numbers."""
    return Rows(
        parts[0].names,
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.fraud for part in parts]),
        np.concatenate([part.amount for part in parts]),
        np.concatenate([part.customer for part in parts]),
    )


def check(rows: Rows, names: tuple[str, ...]) -> None:
    """Check a bank's rows before it trains, so that a bad bank spoils no round.

    Args:
        rows: The bank's rows.
        names: The features that the banks agreed on, in order.

    Raises:
        BadBank: other features, too few rows, or no fraud.
    """
    if rows.names != names:
        missing, unknown = set(names) - set(rows.names), set(rows.names) - set(names)
        detail = "; ".join(
            f"{word}: {', '.join(sorted(found)[:5])}"
            for word, found in (("missing", missing), ("unknown", unknown))
            if found
        )
        raise BadBank(f"its features are not those agreed on ({detail or 'another order'})")
    if len(rows) < MIN_ROWS:
        raise BadBank(f"{len(rows)} rows; {MIN_ROWS} are needed to train on")
    if not rows.fraud.any():
        raise BadBank("none of its rows is a fraud, so there is nothing to learn from")
