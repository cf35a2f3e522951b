"""Which items of a cart a score depends on: each is left out in turn."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from services.fraud.reasons.shapley import log_odds
from services.platform.models.tabular import TabularModel
from services.platform.types import Floats, Floats32

ITEMS = "items"
# The rows of one call.
_MAX_ITEMS = 32


@dataclass(frozen=True)
class ItemChange:
    """What the log-odds lose without one item.

    Attributes:
        item: Its position in the cart.
        price: Major units.
        contribution: Log-odds with it, less those without it.
    """

    item: int
    price: float
    contribution: float


def item_changes(
    model: TabularModel, vector: Floats, sets: Mapping[str, Floats32]
) -> list[ItemChange]:
    """The items of a cart (1, M, 2) beside a vector (1, F), the largest change first.

    An item is left out by making it padding, whose position does not matter.
    """
    items = sets[ITEMS]
    count = min(int((items[0, :, 0] >= 0).sum()), _MAX_ITEMS)
    rows = np.repeat(items, count + 1, axis=0)
    rows[np.arange(count), np.arange(count)] = (-1.0, 0.0)
    odds = log_odds(
        model.score(np.repeat(vector, count + 1, axis=0), {ITEMS: rows}).astype(np.float64)
    )
    changes = odds[-1] - odds[:-1]
    return [
        ItemChange(int(i), float(items[0, i, 1]), float(changes[i])) for i in np.argsort(-changes)
    ]
