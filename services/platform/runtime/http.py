"""What every HTTP service provides besides its own routes: health, metrics, limits, SageMaker.

The SageMaker contract (`GET /ping`, `POST /invocations` on the same image) is documented at
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from secrets import compare_digest
from typing import Any

import orjson
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.telemetry import REQUESTS

Headers = Iterable[tuple[bytes, bytes]]
Readiness = Callable[[], Mapping[str, bool | str | int]]


class JsonResponse(Response):
    """A JSON response by orjson; NaN becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def error_response(status: int, message: str) -> JsonResponse:
    """An error response: one sentence that states what is wrong."""
    return JsonResponse({"error": message}, status_code=status)


# W3C Baggage marks a load test's requests, as in OpenTelemetry's demo (ADR 12).
SYNTHETIC = {"baggage": "synthetic_request=true"}


def is_synthetic(headers: Headers) -> bool:
    """Whether a request comes from a load test."""
    for name, value in headers:
        if name == b"baggage":
            return b"synthetic_request=true" in value
    return False


def has_bearer_token(authorization: str, token: str) -> bool:
    """Whether an `Authorization` header carries a token (RFC 6750).

    Starlette decodes headers as Latin-1; encoded again, any header compares with any token.

    >>> has_bearer_token("Bearer secret", "secret"), has_bearer_token("secret", "secret")
    (True, False)
    """
    expected = f"Bearer {token}".encode()
    return compare_digest(authorization.encode("latin-1"), expected)


class BodyTooLarge(ValueError):
    """A request body over the limit."""


class LimitBody:
    """Middleware that refuses bodies over a limit, by their length or while they arrive."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise BodyTooLarge
            return message

        return counted

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _too_large(scope["path"], self._max_bytes)(scope, receive, send)


def _too_large(path: str, max_bytes: int) -> Response:
    REQUESTS.labels(path, "413").inc()
    return error_response(413, f"body: more than {max_bytes} bytes")


async def _read_body(receive: Receive, max_bytes: int) -> bytes:
    """A request's body.

    Raises:
        BodyTooLarge: as soon as it exceeds `max_bytes`.
        ClientDisconnect: the client disconnected before it was complete.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return body


@dataclass(slots=True)
class RawRequest:
    """A request as a hot endpoint receives it.

    Attributes:
        path: Path of the endpoint.
        headers: Header names and values, as sent.
        body: The whole body.
    """

    path: str
    headers: Headers
    body: bytes


Endpoint = Callable[[RawRequest], Awaitable[Response]]


class DirectApp(FastAPI):
    """A FastAPI application with hot paths, which bypass FastAPI but appear in its documentation.

    Middlewares, the router, exit stacks, dependencies and serialisation take a third of the time of
    a request that does not need them (ADR 11). If a hot endpoint raises, the server answers 500.
    """

    def __init__(self, max_bytes: int, **documented: Any) -> None:
        """Refuse bodies over `max_bytes` on every path.

        Args:
            documented: Arguments of FastAPI.
        """
        super().__init__(**documented)
        self._max_bytes = max_bytes
        self._hot: dict[str, ASGIApp] = {}
        self.add_middleware(LimitBody, max_bytes=max_bytes)

    def add_direct(self, path: str, endpoint: Endpoint, **documented: Any) -> None:
        """Answer POST on a path by an endpoint alone.

        Args:
            documented: Arguments of FastAPI's `add_api_route`.
        """

        # For the documentation alone: `__call__` answers first. Its docstring would be displayed.
        async def documentation() -> None: ...

        async def direct(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                body = await _read_body(receive, self._max_bytes)
                response = await endpoint(RawRequest(path, scope["headers"], body))
            except BodyTooLarge:
                response = _too_large(path, self._max_bytes)
            except ClientDisconnect:
                return
            await response(scope, receive, send)

        options = {"name": path.strip("/"), **documented}
        self.add_api_route(path, documentation, methods=["POST"], **options)
        self._hot[path] = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        hot = self._hot.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        await (hot or super().__call__)(scope, receive, send)


def add_operations(app: FastAPI, ready: Readiness) -> None:
    """Add `/healthz`, `/readyz`, `/metrics` and `/ping`.

    Args:
        ready: Returns names and values of what readiness depends on; any False: not ready.
    """

    @app.get("/healthz", tags=["operations"], summary="Liveness: the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], summary="Readiness: it can answer requests")
    async def readyz() -> Response:
        return _readiness(ready)

    @app.get("/ping", tags=["SageMaker"], summary="SageMaker's health check")
    async def ping() -> Response:
        return _readiness(ready)

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _readiness(ready: Readiness) -> Response:
    parts = dict(ready())
    all_ready = all(value is not False for value in parts.values())
    return JsonResponse({"ready": all_ready, **parts}, status_code=200 if all_ready else 503)
