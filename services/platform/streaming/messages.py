"""Validation errors of a message, worded for its sender."""

from pydantic import ValidationError


def validation_message(error: ValidationError) -> str:
    """At most five errors, a clause each: `cart.0.price_minor: Input should be greater than 0`."""
    clauses = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        clauses.append(f"{where}: {problem['msg']}")
    return "; ".join(clauses[:5])
