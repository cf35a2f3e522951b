"""What is usual: for this customer where the vector knows it, else among genuine payments.

A vector holds the customer's own habit in its sums over a month: the mean amount, and the number of
transactions, from which the number expected within a shorter half-life follows. The other features
are compared with their median among the genuine payments that the model was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from features.spec import HALF_LIVES
from services.fraud.features.states import TABULAR
from services.platform.types import Booleans, Floats

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
    values, own = medians.copy(), np.zeros(len(features), dtype=bool)
    at = {name: i for i, name in enumerate(features)}
    known = _COUNT in at and vector[at[_COUNT]] >= _MIN_TRANSACTIONS
    for name, i in at.items():
        if not known or name not in TABULAR:
            continue
        source, factor = OWN.get(name, ("", 0.0))
        if name in CONSTANT:
            values[i], own[i] = CONSTANT[name], True
        elif source in at and not np.isnan(vector[at[source]]):
            values[i], own[i] = vector[at[source]] * factor, True
    return Usual(values, own)


def genuine_medians(vectors: Floats, positive: Booleans) -> Floats:
    """(F,) medians of the genuine among N vectors (N, F); NaN where all are missing.

    >>> genuine_medians(np.array([[1.0], [3.0], [99.0]]), np.array([False, False, True]))
    array([2.])
    """
    genuine = vectors[~positive]
    missing = np.isnan(genuine).all(axis=0)
    out = np.full(vectors.shape[1], np.nan)
    out[~missing] = np.nanmedian(genuine[:, ~missing], axis=0)
    return out
