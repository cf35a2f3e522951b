"""Random samples that can be drawn again, and rows that count several times."""

import hashlib

import numpy as np

from services.platform.types import Floats, Integers


def draw(identity: str, purpose: str) -> float:
    """A number in [0, 1) of an identity, the same for each process and for an audit.

    Args:
        purpose: At most 16 letters; draws for different purposes are independent.

    >>> 0.0 <= draw("t1-7", "control") < 1.0, draw("t1-7", "control") == draw("t1-7", "audit")
    (True, False)
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def repeated(weight: Floats, most: int | None = None) -> Integers:
    """Indices that repeat each row as often as it counts, for what knows no weights.

    Args:
        most: Where the rows count for more than this together, they are thinned out to that
            number, by systematic sampling. Source: Madow and Madow, "On the Theory of Systematic
            Sampling", 1944.

    >>> repeated(np.array([1.0, 2.6])).tolist(), repeated(np.array([1.0, 9.0, 2.0]), 4).tolist()
    ([0, 1, 1, 1], [1, 1, 1, 2])
    """
    if most is None or weight.sum() <= most:
        return np.repeat(np.arange(len(weight)), np.rint(weight).astype(np.int64))
    position = (np.arange(most) + 0.5) / most * weight.sum()
    return np.searchsorted(np.cumsum(weight), position)
