"""A rule's expression: what it may name, and its compiled form.

Expressions are CEL, the Common Expression Language (https://cel.dev), evaluated by the `cel` crate
in Rust. CEL has no loops but its macros over lists, which are refused here: what remains takes time
that is linear in its length.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from math import inf, nextafter
from typing import Any

import cel

from services.fraud.features.states import TABULAR
from services.fraud.ingestion.events import microseconds
from services.fraud.rules.rule import Rule

SCORE = "score"
# Numbers, in the order of a vector that ends with the score. Embeddings are left out: a rule over
# a coordinate of an embedding means nothing after the next nightly retraining.
NUMBERS = (*TABULAR, SCORE)
# Texts; "" where a request has none. A pair is written "c1|m7".
TEXTS = ("customer_id", "merchant_id", "device_id", "ip", "customer_merchant", "customer_device")
_OPERATORS = {
    "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_?_:_",
    "_+_", "_-_", "_*_", "_/_", "_%_", "-_", "@in",
}  # fmt: skip
_FUNCTIONS = {"size", "startsWith", "endsWith", "contains", "double", "int", "string"}
_MACROS = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(")
_STRING = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_STRING_OR_COMMENT = re.compile(rf"{_STRING.pattern}|//[^\n]*")
_IN_LIST = re.compile(r"\b([a-z_][a-z0-9_]*)\s+in\s+lists\.([a-z_][a-z0-9_]*)\b")
_COMPARISON = re.compile(r"([a-z_][a-z0-9_]*)\s*(<=|>=|==|<|>)\s*(-?\d+(?:\.\d+)?)")
_ALWAYS = (-(2**63), 2**63 - 1)


class RuleRefused(ValueError):
    """A rule that cannot be used, with its id and the reason."""


@dataclass(frozen=True)
class Guard:
    """Bounds between which a variable lies wherever its rule fires, both included."""

    variable: str
    low: float
    high: float


@dataclass(frozen=True)
class CompiledRule:
    """A rule that can be evaluated.

    Attributes:
        rule: The rule.
        run: Evaluates the expression in a CEL context.
        numbers: The numbers it names. It fires only where all of them are known.
        texts: The texts it names, but for those it looks up.
        memberships: By variable of the compiled expression, the text and the list it looks up.
        guards: Necessary conditions, much cheaper than the expression.
        begin_us: First event time at which it may fire, microseconds.
        end_us: Event time from which on it does not fire.
    """

    rule: Rule
    run: Callable[[Any], Any]
    numbers: frozenset[str]
    texts: frozenset[str]
    memberships: dict[str, tuple[str, str]] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    begin_us: int = _ALWAYS[0]
    end_us: int = _ALWAYS[1]


def compile_rule(rule: Rule, lists: frozenset[str]) -> CompiledRule:
    """Compile a rule.

    Args:
        lists: Names of the lists of its set.

    Raises:
        RuleRefused: it is no CEL, or names what there is not.
    """
    source, memberships = _with_memberships(rule, lists)
    try:
        program = cel.compile(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RuleRefused(f"{rule.id}: no CEL expression: {_first_line(error)}") from None
    _check_functions(rule, source, program)
    for name, _, number in _COMPARISON.findall(_plain(source)):
        if name in TEXTS:
            raise RuleRefused(f'{rule.id}: {name} is a text: write "{number}"')
    names = frozenset(program.variables()) - memberships.keys()
    if unknown := sorted(names - {*NUMBERS, *TEXTS}):
        raise RuleRefused(f"{rule.id}: unknown name {unknown[0]!r}{_similar(unknown[0])}")
    return CompiledRule(
        rule=rule,
        run=program.execute,
        numbers=names.intersection(NUMBERS),
        texts=names.intersection(TEXTS),
        memberships=memberships,
        guards=guards(source, memberships.keys()),
        begin_us=_bound(rule.valid_from, _ALWAYS[0]),
        end_us=_bound(rule.valid_until, _ALWAYS[1]),
    )


def guards(source: str, memberships: Collection[str]) -> tuple[Guard, ...]:
    """The guards of an expression: those of its conjuncts that compare a number with a constant.

    Text in comments and string literals is no condition.

    Args:
        memberships: Names of boolean variables; one that is a conjunct is a guard too.

    Returns:
        None if there is a disjunction or a condition anywhere.

    >>> guards("amount >= 5 && size(ip) > 3 && score == 0.5", ())
    (Guard(variable='amount', low=5.0, high=inf), Guard(variable='score', low=0.5, high=0.5))
    >>> guards("amount > 5 || score < 0.5", ())
    ()
    >>> guards("amount > 5 // && score < 0.2", ())
    (Guard(variable='amount', low=5.000000000000001, high=inf),)
    """
    plain = _plain(source)
    if "||" in plain or "?" in plain:
        return ()
    found = []
    for conjunct in _top_level_conjuncts(plain):
        if conjunct in memberships:
            found.append(Guard(conjunct, 1.0, inf))
        elif (match := _COMPARISON.fullmatch(conjunct)) and match[1] in NUMBERS:
            name, sign, number = match.groups()
            found.append(Guard(name, *_bounds(sign, float(number))))
    return tuple(found)


def _plain(source: str) -> str:
    """An expression with empty strings and without comments."""
    return _STRING_OR_COMMENT.sub(lambda match: "''" if match[1] else "", source)


def _bounds(sign: str, constant: float) -> tuple[float, float]:
    if sign == "==":
        return constant, constant
    if sign[0] == "<":
        return -inf, constant if sign == "<=" else nextafter(constant, -inf)
    return constant if sign == ">=" else nextafter(constant, inf), inf


def _top_level_conjuncts(plain: str) -> list[str]:
    """The parts between the `&&` that lie outside brackets."""
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(plain):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and plain.startswith("&&", at):
            parts.append(plain[begin:at].strip())
            begin = at + 2
    return [*parts, plain[begin:].strip()]


def _with_memberships(rule: Rule, lists: frozenset[str]) -> tuple[str, dict[str, tuple[str, str]]]:
    """The expression with each `FIELD in lists.NAME` as a boolean variable of its own.

    CEL would copy the list for each look-up: 82 us for a thousand entries, 0.9 s for a million.
    """
    found: dict[str, tuple[str, str]] = {}

    def replace(match: re.Match[str]) -> str:
        text, name = match.groups()
        if text not in TEXTS:
            raise RuleRefused(f"{rule.id}: {text!r} is none of {', '.join(TEXTS)}")
        if name not in lists:
            known = ", ".join(sorted(lists)) or "there are none"
            raise RuleRefused(f"{rule.id}: unknown list {name!r}: {known}")
        variable = f"{text}__in__{name}"
        found[variable] = (text, name)
        return variable

    # Every second part is a string literal, which stays as it is.
    parts = _STRING.split(rule.when)
    parts[::2] = [_IN_LIST.sub(replace, part) for part in parts[::2]]
    return "".join(parts), found


def _check_functions(rule: Rule, source: str, program: Any) -> None:
    plain = "".join(_STRING.split(source)[::2])
    if re.search(r"\blists\b", plain):
        raise RuleRefused(f"{rule.id}: a list is looked up as `FIELD in lists.NAME`")
    if macro := _MACROS.search(plain):
        raise RuleRefused(f"{rule.id}: {macro[1]} is not allowed, its time has no bound")
    if other := sorted(set(program.functions()) - _OPERATORS - _FUNCTIONS):
        known = ", ".join(sorted(_FUNCTIONS))
        raise RuleRefused(f"{rule.id}: function {other[0]!r} is none of {known}")


def _similar(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*NUMBERS, *TEXTS], 3)
    return f": did you mean {', '.join(close)}?" if close else ": see docs/features.md"


def _bound(moment: datetime | None, default: int) -> int:
    return default if moment is None else microseconds(moment)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
