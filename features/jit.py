"""How kernels are compiled: float64, IEEE arithmetic, no fast maths.

Fast maths would let the compiler reorder sums, and the backfill and the worker would compute
different bytes from the same events.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F, signature: object = None) -> F:
    """Compile a function and cache the machine code beside its source file.

    Args:
        signature: The only types that it takes, compiled now; None: compiled at its first call
            with each.
    """
    return cast(F, numba.njit(signature, cache=True, fastmath=False)(function))
