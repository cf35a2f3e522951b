"""Exact Shapley values of a few groups of inputs, for a model that is only a function.

With G groups the model is asked for all 2 ** G mixtures of the transaction and what is usual: 64
rows for six groups, one call. The values add up to the difference of the two log-odds.

Source: Shapley, "A Value for n-Person Games", 1953; Lundberg and Lee, "A Unified Approach to
Interpreting Model Predictions", NeurIPS 2017.
"""

from math import factorial

import numpy as np

from services.platform.types import Booleans, Floats

# A float32 score of exactly 0 or 1 has no log-odds; the next ones have these.
_LEAST = 2.0**-24


def log_odds(score: Floats) -> Floats:
    """Log-odds (N,) of scores (N,).

    >>> log_odds(np.array([0.5, 1.0])).round(1).tolist()
    [0.0, 16.6]
    """
    p = np.clip(np.asarray(score, dtype=np.float64), _LEAST, 1.0 - _LEAST)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def coalitions(groups: int) -> Booleans:
    """All (2 ** G, G) coalitions: whether a group is as in the transaction. The last has all.

    >>> coalitions(2).astype(int).tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    return (np.arange(2**groups)[:, None] >> np.arange(groups) & 1).astype(bool)


def shapley_values(values: Floats) -> Floats:
    """Shapley values (G,) of a game, given the value of each coalition (2 ** G,).

    >>> shapley_values(np.array([1.0, 3.0, 2.0, 6.0])).tolist()
    [3.0, 2.0]
    """
    groups = len(values).bit_length() - 1
    members = coalitions(groups)
    size = members.sum(axis=1)
    weight = np.array([factorial(k) * factorial(groups - k - 1) for k in range(groups)])
    out = np.empty(groups)
    for g in range(groups):
        without = np.nonzero(~members[:, g])[0]
        gains = values[without | (1 << g)] - values[without]
        out[g] = (weight[size[without]] * gains).sum() / factorial(groups)
    return out
