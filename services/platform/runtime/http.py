"""What every HTTP service here answers besides its own route: health, metrics, limits, SageMaker.

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
    """A JSON answer by orjson; NaN becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def problem(status: int, message: str) -> JsonResponse:
    """An error answer: one sentence that names what is wrong."""
    return JsonResponse({"error": message}, status_code=status)


# W3C Baggage: how a load test says what it is, as OpenTelemetry's demo does.
SYNTHETIC = {"baggage": "synthetic_request=true"}


def is_synthetic(headers: Headers) -> bool:
    """Whether a load test asks."""
    for name, value in headers:
        if name == b"baggage":
            return b"synthetic_request=true" in value
    return False


def bears(authorization: str, token: str) -> bool:
    """Whether an `Authorization` header carries a token (RFC 6750).

    Starlette reads headers as Latin-1: as bytes again, any header can be compared with any token.
    """
    wanted = f"Bearer {token}".encode()
    return compare_digest(authorization.encode("latin-1"), wanted)


class BodyTooLarge(ValueError):
    """A request body over the limit."""


class LimitBody:
    """Refuses bodies over a limit, by their length or as they come, before they fill memory."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            await self._refuse(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise BodyTooLarge
            return message

        return counted

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _too_large(scope["path"], self._most)(scope, receive, send)


def _too_large(path: str, most: int) -> Response:
    REQUESTS.labels(path, "413").inc()
    return problem(413, f"body: more than {most} bytes")


async def _whole(receive: Receive, most: int) -> bytes:
    """A request's body.

    Raises:
        BodyTooLarge: as soon as it is over `most` bytes.
        ClientDisconnect: it was not sent to its end, and nobody waits for an answer.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return body


@dataclass(slots=True)
class Posted:
    """A request as a hot endpoint sees it: whole, and as it was sent."""

    path: str
    headers: Headers
    body: bytes


Endpoint = Callable[[Posted], Awaitable[Response]]


class DirectApp(FastAPI):
    """A FastAPI application with hot paths: documented like any other, called by the server.

    Middlewares, the router, exit stacks, dependencies and serialisation cost a third of a request
    that has no use for them (ADR 11). What a hot endpoint raises, the server answers with 500.
    """

    def __init__(self, most_bytes: int, **documented: Any) -> None:
        """Refuse bodies over `most_bytes` on every path. documented: What FastAPI takes."""
        super().__init__(**documented)
        self._most = most_bytes
        self._hot: dict[str, ASGIApp] = {}
        self.add_middleware(LimitBody, most=most_bytes)

    def add_direct(self, path: str, endpoint: Endpoint, **documented: Any) -> None:
        """Answer POST on a path by an endpoint, and by nothing else."""

        # A docstring would be shown as the route's. `__call__` answers before any route does.
        async def only_documents() -> None: ...

        async def direct(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                body = await _whole(receive, self._most)
                response = await endpoint(Posted(path, scope["headers"], body))
            except BodyTooLarge:
                response = _too_large(path, self._most)
            except ClientDisconnect:
                return
            await response(scope, receive, send)

        named = {"name": path.strip("/"), **documented}
        self.add_api_route(path, only_documents, methods=["POST"], **named)
        self._hot[path] = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, by ASGI."""
        hot = self._hot.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        await (hot or super().__call__)(scope, receive, send)


def add_operations(app: FastAPI, ready: Readiness) -> None:
    """Add `/healthz`, `/readyz`, `/metrics` and `/ping`.

    Args:
        ready: Names and values of what readiness hangs on; false for any means not ready.
    """

    @app.get("/healthz", tags=["operations"], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], summary="Can it answer?")
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
    able = all(value is not False for value in parts.values())
    return JsonResponse({"ready": able, **parts}, status_code=200 if able else 503)
