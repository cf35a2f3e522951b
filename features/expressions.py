"""Expressions of declarations: how a feature or a measure is computed, as text over names.

An expression is Python arithmetic over names, `name.attribute` and calls of known formulas, for
example `ratio(request_amount, customer.amount)`. A comparison is 1 where it holds, else 0. It is
parsed when it is declared, so a name that does not exist is an error at import. Its text is part of
the feature set's hash.
"""

import ast
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import TypeVar

N = TypeVar("N", bound=ast.AST)

_ALLOWED = (
    ast.Expression, ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.BinOp, ast.UnaryOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.USub, ast.Load, ast.Compare, ast.Lt, ast.LtE,
    ast.Gt, ast.GtE, ast.Eq,
)  # fmt: skip


@cache
def parse(text: str) -> ast.Expression:
    """The syntax tree of an expression.

    Raises:
        ValueError: it is no expression, or uses more than arithmetic, names and calls.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no expression: {error.msg}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"{text!r}: {type(node).__name__} is not allowed in an expression")
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            raise ValueError(f"{text!r}: only numbers are allowed as constants")
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise ValueError(f"{text!r}: one comparison at a time")
        if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name):
            raise ValueError(f"{text!r}: an attribute must be of a name")
        if isinstance(node, ast.Call) and (node.keywords or not isinstance(node.func, ast.Name)):
            raise ValueError(f"{text!r}: a formula is called by name, without keywords")
    return tree


def calls(text: str) -> set[str]:
    """Names of the formulas that an expression calls.

    >>> calls("ratio(amount, customer.transactions)")
    {'ratio'}
    """
    return {node.func.id for node in _nodes(text, ast.Call) if isinstance(node.func, ast.Name)}


def names(text: str) -> set[str]:
    """The bare names that an expression reads, without formulas.

    >>> sorted(names("ratio(amount, customer.transactions)"))
    ['amount']
    """
    owners = {name for name, _ in attributes(text)}
    found = {node.id for node in _nodes(text, ast.Name)}
    return found - owners - calls(text)


def attributes(text: str) -> set[tuple[str, str]]:
    """The (name, attribute) pairs that an expression reads.

    >>> attributes("ratio(amount, customer.transactions)")
    {('customer', 'transactions')}
    """
    return {
        (node.value.id, node.attr)
        for node in _nodes(text, ast.Attribute)
        if isinstance(node.value, ast.Name)
    }


def check(
    text: str,
    known_names: Collection[str],
    known_attributes: Collection[tuple[str, str]] = (),
    known_formulas: Collection[str] = (),
) -> None:
    """Check the names of an expression. ValueError lists those that do not exist."""
    unknown = sorted(names(text) - set(known_names))
    unknown += [".".join(p) for p in sorted(attributes(text) - set(known_attributes))]
    unknown += [f"{name}()" for name in sorted(calls(text) - set(known_formulas))]
    if unknown:
        raise ValueError(f"{text!r} reads what does not exist: {', '.join(unknown)}")


def translate(text: str, attribute: Callable[[str, str], str]) -> str:
    """The expression with its attributes replaced.

    Args:
        attribute: The text for `name.attribute`.

    >>> translate("a + row.count", lambda owner, measure: f"{owner}[{len(measure)}]")
    'a + row[5]'
    """

    class Translator(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            assert isinstance(node.value, ast.Name)  # as `parse` checks
            return ast.parse(attribute(node.value.id, node.attr), mode="eval").body

    parse(text)
    return ast.unparse(Translator().visit(ast.parse(text.strip(), mode="eval")))


def canonical(text: str) -> str:
    """The expression in one spelling, whatever its spaces and line breaks.

    >>> canonical("a*b  + 1")
    'a * b + 1'
    """
    return ast.unparse(parse(text))


def _nodes(text: str, kind: type[N]) -> Iterator[N]:
    return (node for node in ast.walk(parse(text)) if isinstance(node, kind))
