"""Who may ask the page: this machine's browser, on our own page, with the token for changes.

`Host` and `Origin` must be ours, as for every service (`runtime.origin`), here for what only shows
too. What changes anything needs the token, which no other site knows.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.runtime.origin import SAFE_METHODS, Refusal, host_check, refusal
from services.platform.runtime.tokens import has_bearer_token


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
        self, app: ASGIApp, hosts: Iterable[str], token: str, headers: dict[str, str]
    ) -> None:
        """Refuse nothing yet.

        Args:
            hosts: Names under which the page is asked, besides localhost and addresses.
            token: Needed for methods that are not safe.
            headers: Added to every response.
        """
        self._app = app
        self._known_host = host_check(hosts)
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

        refused = self._refusal(scope)
        app = self._app if refused is None else JSONResponse({"error": refused[1]}, refused[0])
        await app(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Refusal | None:
        method = scope["method"]
        foreign = refusal(method, scope["headers"], self._known_host, open_methods=())
        if foreign is not None or method in SAFE_METHODS:
            return foreign
        authorization = Headers(scope=scope).get("authorization", "")
        if not has_bearer_token(authorization, self._token):
            return 401, "a token is required: open the URL that `whiteboard open` prints"
        return None
