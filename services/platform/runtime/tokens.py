"""Bearer tokens of HTTP requests (RFC 6750): how a client sends one, and whether a request has it.

A request carries one token. Decision routes accept the client token or the label token: a load
test's request needs the latter for its mark. No token opens a route of another.
"""

from collections.abc import Callable, Iterable
from secrets import compare_digest

from services.platform.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]
HasToken = Callable[[Headers], bool]

# W3C Baggage marks a load test's requests, as in OpenTelemetry's demo (ADR 12).
SYNTHETIC = {"baggage": "synthetic_request=true"}


def is_synthetic(headers: Headers) -> bool:
    """Whether a request comes from a load test."""
    for name, value in headers:
        if name == b"baggage":
            return b"synthetic_request=true" in value
    return False


def synthetic_headers(token: str) -> dict[str, str]:
    """Headers of a load test's request.

    Args:
        token: The label token. Monitors leave the decision out, so not anybody may ask for that.
    """
    return {**SYNTHETIC, "Authorization": f"Bearer {token}"}


def client_headers(config: Settings) -> dict[str, str]:
    """Headers of a client that asks for decisions; none where there is no token."""
    token = config.plain_client_token
    return {"Authorization": f"Bearer {token}"} if token else {}


def client_check(config: Settings) -> HasToken | None:
    """Whether headers have a token that may ask for decisions; None: no request needs one."""
    if not config.wants_client_token:
        return None
    tokens = config.plain_client_token, config.plain_label_token

    def has_token(headers: Headers) -> bool:
        header = authorization(headers)
        return any(has_bearer_token(header, token) for token in tokens)

    return has_token


def authorization(headers: Headers) -> str:
    """The `Authorization` header of a request, empty if it has none."""
    return dict(headers).get(b"authorization", b"").decode("latin-1")


def has_bearer_token(header: str, token: str) -> bool:
    """Whether an `Authorization` header carries a token; no header carries an empty one.

    Starlette decodes headers as Latin-1; encoded again, any header compares with any token.

    >>> has_bearer_token("Bearer secret", "secret"), has_bearer_token("secret", "secret")
    (True, False)
    """
    expected = f"Bearer {token}".encode()
    return bool(token) and compare_digest(header.encode("latin-1"), expected)
