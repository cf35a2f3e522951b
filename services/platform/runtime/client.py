"""HTTP clients that keep connections open between requests.

A server closes a connection that was idle for too long, or when it restarts; a request that meets
this on its way was never answered, though it may have been handled. aiohttp sends it again for
idempotent methods alone. A client may do so for a POST that it knows to be idempotent (RFC 9110,
section 9.2.2), and these are: each transaction, inspection and label carries the id of what it is
about, by which readers count it once.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp


@dataclass
class _Attempt:
    """One try to send a request.

    Attributes:
        reused: Whether its connection had served another request before.
    """

    reused: bool = False


def open_session(timeout_s: float, max_connections: int = 100) -> aiohttp.ClientSession:
    """A session for `post`.

    Args:
        timeout_s: Of a whole request.
        max_connections: Connections to all hosts together.
    """
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=max_connections),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        trace_configs=[trace],
    )


async def post(http: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, bytes]:
    """Post, again as long as a reused connection closes before the response begins.

    Each of these closes for good, so the last try is on a new connection.

    Args:
        http: Made by `open_session`.
        options: Of aiohttp's `post`.

    Returns:
        Status and body of the response.

    Raises:
        aiohttp.ClientError: the server did not answer.
        TimeoutError: nor in time.
    """
    while True:
        attempt = _Attempt()
        try:
            async with http.post(url, trace_request_ctx=attempt, **options) as response:
                return response.status, await response.read()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not attempt.reused:
                raise


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.reused = True
