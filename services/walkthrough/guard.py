"""Who may ask the page: this machine's browser, on our own page, with the token for changes.

A page of another site can send requests to 127.0.0.1, and a name of its own can resolve to it (DNS
rebinding). So the `Host` must be one of ours, the `Origin` too where there is one, and what changes
anything needs the token, which no other site knows.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.runtime.http import has_bearer_token

SAFE_METHODS = ("GET", "HEAD")


def security_headers(script_hash: str) -> dict[str, str]:
    """Headers of every response: no foreign content, no framing, no guessing of types.

    Args:
        script_hash: Of the page's only inline script, its import map.
    """
    policy = (
        "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self'; "
        f"script-src 'self' 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


class Guard:
    """An ASGI application that refuses requests of others before ours sees them."""

    def __init__(
        self, app: ASGIApp, hosts: frozenset[str], token: str, headers: dict[str, str]
    ) -> None:
        """Refuse nothing yet.

        Args:
            hosts: Host names, without port, under which the page may be asked.
            token: Needed for methods that are not safe.
            headers: Added to every response.
        """
        self._app = app
        self._hosts = hosts
        self._token = token
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else JSONResponse({"error": refusal[1]}, refusal[0])
        await app(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and message of a refusal; None if the request is allowed."""
        host = headers.get("host", "")
        if not self._is_ours(f"//{host}"):
            return 421, "this host name is not the page's: open the URL that `whiteboard up` prints"
        origin = headers.get("origin")
        if origin is not None and (urlsplit(origin).netloc != host or not self._is_ours(origin)):
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "requests of other sites are refused"
        if method in SAFE_METHODS:
            return None
        if not has_bearer_token(headers.get("authorization", ""), self._token):
            return 401, "a token is required: open the URL that `whiteboard open` prints"
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            return urlsplit(url).hostname in self._hosts
        except ValueError:
            return False
