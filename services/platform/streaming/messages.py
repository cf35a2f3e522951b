"""What is wrong with a message, for whoever sent it."""

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """All that is wrong, a clause each: `cart.0.price_minor: Input should be greater than 0`."""
    clauses = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        clauses.append(f"{where}: {problem['msg']}")
    return "; ".join(clauses[:5])
