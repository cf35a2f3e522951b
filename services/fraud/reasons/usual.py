"""What is usual: for this customer where the vector knows it, else among genuine payments.

A vector holds the customer's own habit in its sums over a month: the mean amount, and the number of
transactions, from which the number expected within a shorter half-life follows. The other features
are compared with their median among the genuine payments that the model was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from features.spec import HALF_LIVES
from services.fraud.features.states import TABULAR
from services.platform.types import Booleans, Floats, Integers

_MONTH = "30d"
_COUNT, _MEAN = f"customer_transactions_{_MONTH}", f"customer_mean_amount_{_MONTH}"
# With fewer transactions a month, a customer has no habit to compare with.
_MIN_TRANSACTIONS = 2.0
# By feature, the feature that says what is usual for the customer, and its factor. A count of half
# the half-life is half as large at a steady rate.
OWN: Mapping[str, tuple[str, float]] = {
    "amount": (_MEAN, 1.0),
    **{f"customer_mean_amount_{h}": (_MEAN, 1.0) for h in HALF_LIVES},
    **{
        f"customer_transactions_{h}": (_COUNT, seconds / HALF_LIVES[_MONTH])
        for h, seconds in HALF_LIVES.items()
    },
}
# Values of these features for usual behaviour.
CONSTANT: Mapping[str, float] = {
    "customer_amount_zscore_7d": 0.0,
    "customer_amount_zscore_30d": 0.0,
    "customer_amount_ratio_30d": 1.0,
    "customer_device_is_new": 0.0,
}


@dataclass(frozen=True)
class Usual:
    """What is usual beside one vector.

    Attributes:
        values: (F,) usual value of each feature.
        own: (F,) whether it is the customer's own, not that of genuine payments.
    """

    values: Floats
    own: Booleans


def usual_values(features: tuple[str, ...], vector: Floats, medians: Floats) -> Usual:
    """What is usual beside a vector.

    Args:
        features: Names of F features.
        vector: (F,) their values.
        medians: (F,) their medians among genuine payments.
    """
    habits = _habits(features)
    values, own = medians.copy(), np.zeros(len(features), dtype=bool)
    if habits.count is None or not vector[habits.count] >= _MIN_TRANSACTIONS:
        return Usual(values, own)
    values[habits.constant] = habits.constants
    own[habits.constant] = True
    expected = vector[habits.source] * habits.factor
    is_known = ~np.isnan(expected)
    values[habits.derived[is_known]] = expected[is_known]
    own[habits.derived[is_known]] = True
    return Usual(values, own)


@dataclass(frozen=True)
class _Habits:
    """Which of F features have a usual value of the customer's own, by index.

    Attributes:
        count: The one that counts the customer's transactions; None if it is not among them.
        constant: Those of `CONSTANT`.
        constants: Their usual values.
        derived: Those of `OWN`.
        source: What their usual values follow from.
        factor: By what factor.
    """

    count: int | None
    constant: Integers
    constants: Floats
    derived: Integers
    source: Integers
    factor: Floats


@lru_cache(maxsize=8)
def _habits(features: tuple[str, ...]) -> _Habits:
    at = {name: i for i, name in enumerate(features) if name in TABULAR}
    constant = [name for name in at if name in CONSTANT]
    derived = [name for name in at if name in OWN and OWN[name][0] in at]
    return _Habits(
        count=at.get(_COUNT),
        constant=np.array([at[name] for name in constant], np.int64),
        constants=np.array([CONSTANT[name] for name in constant], np.float64),
        derived=np.array([at[name] for name in derived], np.int64),
        source=np.array([at[OWN[name][0]] for name in derived], np.int64),
        factor=np.array([OWN[name][1] for name in derived], np.float64),
    )


def genuine_medians(vectors: Floats, positive: Booleans) -> Floats:
    """(F,) medians of the genuine among N vectors (N, F); NaN where all are missing.

    >>> genuine_medians(np.array([[1.0], [3.0], [99.0]]), np.array([False, False, True]))
    array([2.])
    """
    out = np.full(vectors.shape[1], np.nan)
    for number, values in enumerate(vectors.T):  # all at once would take three copies
        known = values[~positive & ~np.isnan(values)]
        if len(known):
            out[number] = np.median(known)
    return out
