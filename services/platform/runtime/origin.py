"""Which requests a service refuses before anything reads them: those of other sites.

Every page that a browser has open can send requests to 127.0.0.1, and a page's own name can resolve
to it (DNS rebinding). So the `Host` must be an address, which no name of a page is, or a name of
ours; and what changes something must not come from a page of another site. Without these headers a
request is no browser's.
"""

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from ipaddress import ip_address

Headers = Iterable[tuple[bytes, bytes]]
Refusal = tuple[int, str]

SAFE_METHODS = ("GET", "HEAD")
_FOREIGN_SITES = (b"cross-site", b"same-site")
_UNKNOWN_HOST = 421, "this host name is not the service's: WHITEBOARD_HOSTS lists names of ours"
_FOREIGN = 403, "requests of other sites are refused"


def host_name(host: bytes) -> str:
    """The name or address of a `Host` header, without its port; empty if it is malformed.

    >>> host_name(b"Localhost:18080"), host_name(b"[::1]:18080"), host_name(b"a b")
    ('localhost', '::1', '')
    """
    name = host.decode("latin-1").lower()
    if name.startswith("["):
        address, closed, _ = name[1:].partition("]")
        return address if closed else ""
    name = name.partition(":")[0]
    return name if name.replace("-", "").replace(".", "").replace("_", "").isalnum() else ""


def host_check(names: Iterable[str]) -> Callable[[bytes], bool]:
    """A check of `Host` headers: localhost, an address, or one of these names.

    >>> known = host_check(["scorer"])
    >>> [known(h) for h in (b"scorer:8080", b"127.0.0.1:18080", b"localhost", b"evil.example")]
    [True, True, True, False]
    """
    ours = {"localhost", *(name.lower() for name in names)}

    # A client sends the same header each time; others must not fill the memory.
    @lru_cache(maxsize=256)
    def known(host: bytes) -> bool:
        name = host_name(host)
        return name in ours or _is_address(name)

    return known


def refusal(
    method: str,
    headers: Headers,
    known: Callable[[bytes], bool],
    open_methods: Collection[str] = SAFE_METHODS,
) -> Refusal | None:
    """Status and message of a refusal; None if the request is allowed.

    Args:
        known: Whether a `Host` header is ours, see `host_check`.
        open_methods: Those that a page of another site may send.
    """
    host = origin = site = b""
    for name, value in headers:
        if name == b"host":
            if not known(value):
                return _UNKNOWN_HOST
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
    if method in open_methods:
        return None
    if site in _FOREIGN_SITES or (origin and origin.partition(b"://")[2] != host):
        return _FOREIGN
    return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
