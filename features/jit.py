"""How kernels are compiled: float64, IEEE arithmetic, no fast maths.

Fast maths would let the compiler reorder sums, and the backfill and the worker would compute
different bytes from the same events.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function at its first call and cache the machine code beside its source file."""
    return cast(F, numba.njit(cache=True, fastmath=False)(function))
