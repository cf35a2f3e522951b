"""The formulas that the expressions of features may call: functions of float64.

They are written so that numba can compile them; `features/reading.py` does. NaN comes out where
NaN goes in, so the features of an entity that was not read are missing.
"""

import ast
import inspect
from collections.abc import Callable
from textwrap import dedent

import numpy as np

from features.spec import DAY, HOUR

FORMULAS: dict[str, Callable[..., float]] = {}


def formula(function: Callable[..., float]) -> Callable[..., float]:
    """Decorator: make a function known to expressions by its name."""
    FORMULAS[function.__name__] = function
    return function


@formula
def ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN where the denominator is zero, which the trees route as missing.

    >>> ratio(3.0, 2.0), ratio(3.0, 0.0)
    (1.5, nan)
    """
    return numerator / denominator if denominator > 1e-9 else np.nan


@formula
def risk(chargebacks: float, labelled: float) -> float:
    """Share of an entity's labelled transactions that were charged back.

    Labels arrive late, so both sums count labels, not transactions: a chargeback is divided by the
    labels of the same time. The constant shrinks the share where labels are few.

    >>> risk(1.0, 3.7), risk(0.0, 0.0)
    (0.25, 0.0)
    """
    return chargebacks / (labelled + 0.3)


@formula
def zscore(value: float, count: float, total: float, squares: float) -> float:
    """The deviation of a value from the mean, in standard deviations; NaN without values.

    1 is added to the variance: a value that differs from equal ones is not infinitely far.

    Args:
        value: The value.
        count: Number of earlier values.
        total: Their sum.
        squares: Sum of their squares.

    >>> float(zscore(5.0, 2.0, 4.0, 8.0))
    3.0
    """
    if not count > 1e-9:
        return np.nan
    mean = total / count
    variance = squares / count - mean * mean
    return (value - mean) / np.sqrt(max(variance, 0.0) + 1.0)


@formula
def since(seconds: float, earlier: float) -> float:
    """Seconds since an earlier time, 0 if it is later; NaN if that time is 0, for never.

    >>> since(100.0, 40.0), since(100.0, 130.0), since(100.0, 0.0)
    (60.0, 0.0, nan)
    """
    if not earlier > 0.0:
        return np.nan
    return max(seconds - earlier, 0.0)


@formula
def is_new(first_seq: float) -> float:
    """1 for an entity without transactions, else 0.

    >>> is_new(0.0), is_new(17.0), is_new(np.nan)
    (1.0, 0.0, nan)
    """
    return np.nan if np.isnan(first_seq) else (1.0 if first_seq == 0.0 else 0.0)


@formula
def hour_of_day(seconds: float) -> float:
    """Hour of the day in UTC, with its fraction.

    >>> hour_of_day(86_400.0 + 5_400.0)
    1.5
    """
    return (seconds % DAY) / HOUR


@formula
def day_of_week(seconds: float) -> float:
    """Day of the week in UTC, 0 for Monday. 1970-01-01 was a Thursday.

    >>> float(day_of_week(0.0))
    3.0
    """
    return np.floor(seconds / DAY + 3.0) % 7.0


def definition(name: str) -> str:
    """The code of a formula without annotations and documentation, for the feature set's hash."""
    source = dedent(inspect.getsource(FORMULAS[name]))
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:] if ast.get_docstring(function) else function.body
    parameters = ", ".join(argument.arg for argument in function.args.args)
    return "\n".join((f"{name}({parameters})", *map(ast.unparse, body)))
