"""The one place that says how kernels are compiled: float64, IEEE arithmetic, no fast maths.

Fast maths would let the compiler reorder sums, and the same events would give other bytes in the
backfill than in the worker.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function on first call and keep the machine code beside its file."""
    return cast(F, numba.njit(cache=True, fastmath=False)(function))
