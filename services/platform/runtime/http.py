"""What every HTTP service provides besides its own routes: health, metrics, limits, SageMaker.

The SageMaker contract (`GET /ping`, `POST /invocations` on the same image) is documented at
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.runtime.origin import host_check, refusal
from services.platform.runtime.tokens import HasToken, Headers
from services.platform.telemetry import REQUESTS

Readiness = Callable[[], Mapping[str, bool | str | int]]

_CLIENT_BEARER = HTTPBearer(
    scheme_name="ClientToken", description="The setting WHITEBOARD_CLIENT_TOKEN", auto_error=False
)
_NO_TOKEN = (
    "a bearer token is required: WHITEBOARD_CLIENT_TOKEN, or secrets/client-token of the home; "
    "WHITEBOARD_REQUIRE_TOKENS=no where a gateway knows who asks"
)


class JsonResponse(Response):
    """A JSON response by orjson; NaN becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class ErrorMessage(BaseModel):
    """The body of an error response.

    Attributes:
        error: One sentence that states what is wrong.
    """

    error: str


def error_response(status: int, message: str) -> JsonResponse:
    """An error response: one sentence that states what is wrong."""
    return JsonResponse({"error": message}, status_code=status)


def error_responses(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Error responses for a route's documentation, by status."""
    return {
        status: {"model": ErrorMessage, "description": description}
        for status, description in descriptions.items()
    }


class BodyTooLarge(HTTPException):
    """A request body over the limit: status 413."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, f"body: more than {max_bytes} bytes")


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
            raise BodyTooLarge(max_bytes)
        if not message.get("more_body", False):
            return body


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises `BodyTooLarge` as soon as a body exceeds `max_bytes`."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise BodyTooLarge(max_bytes)
        return message

    return limited


def _without_body(send: Send) -> Send:
    """`send` that leaves out the body."""

    async def headers_only(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return headers_only


@dataclass(slots=True)
class RawRequest:
    """A request as a hot endpoint receives it.

    Attributes:
        path: Path of the endpoint.
        headers: Header names and values, as sent.
        body: The whole body.
        query: The query string, without its question mark.
    """

    path: str
    headers: Headers
    body: bytes
    query: bytes = b""


Endpoint = Callable[[RawRequest], Awaitable[Response]]


class DirectApp(FastAPI):
    """A FastAPI application that limits bodies, answers HEAD, and may have hot paths.

    It refuses requests of other sites: see `origin`.

    Hot paths bypass FastAPI but appear in its documentation. Middlewares, the router, exit stacks,
    dependencies and serialisation take a third of the time of a request that does not need them
    (ADR 11). If a hot endpoint raises, the server answers 500.

    Every path that answers GET answers HEAD, with the same headers (RFC 9110, section 9.3.2).
    """

    def __init__(self, max_bytes: int, hosts: Iterable[str] = (), **options: Any) -> None:
        """Refuse bodies over `max_bytes`, and requests of other sites, on every path.

        Args:
            hosts: Names under which it is asked, besides localhost and addresses.
            options: Arguments of FastAPI.
        """
        super().__init__(**options)
        self._max_bytes = max_bytes
        self._known_host = host_check(hosts)
        self._hot: dict[str, ASGIApp] = {}
        self._token_paths: tuple[str, ...] = ()
        self.add_exception_handler(BodyTooLarge, _refuse_body)
        self.add_exception_handler(405, self._refuse_method)

    def add_direct(
        self, path: str, endpoint: Endpoint, model: type[BaseModel], **documented: Any
    ) -> None:
        """Answer POST on a path by an endpoint alone.

        Args:
            model: The model of the body, for the documentation; the endpoint gets the raw body.
            documented: Arguments of FastAPI's `add_api_route`.
        """

        # For the documentation alone: `__call__` answers first. Its docstring would be displayed.
        async def documentation(body: model) -> None: ...  # type: ignore[valid-type]

        async def direct(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                body = await _read_body(receive, self._max_bytes)
                response = await endpoint(
                    RawRequest(path, scope["headers"], body, scope.get("query_string", b""))
                )
            except BodyTooLarge as error:
                REQUESTS.labels(path, "413").inc()
                response = error_response(413, error.detail)
            except ClientDisconnect:
                return
            await response(scope, receive, send)

        options = {"name": path.strip("/"), **documented}
        self.add_api_route(path, documentation, methods=["POST"], **options)
        self._hot[path] = direct

    def require_token(self, has_token: HasToken | None, *paths: str) -> list[Any]:
        """Answer 401 on paths, and on all that begin so, to requests without a token.

        No body is read of these. Off, the check costs a hot path 0.14 us (2026-11-28, a busy core).

        Args:
            has_token: See `client_check`; None: requests need no token.

        Returns:
            Dependencies of the routes, which document it.
        """
        if has_token is None:
            return []
        self._has_token, self._token_paths = has_token, paths
        return [Depends(_CLIENT_BEARER)]

    def _lacks_token(self, path: str, headers: Headers) -> bool:
        """Whether a request is refused for want of a token; counts it."""
        found = next((p for p in self._token_paths if path.startswith(p)), None)
        if found is None or self._has_token(headers):
            return False
        REQUESTS.labels(found, "401").inc()
        return True

    async def _refuse_method(self, request: Request, error: Exception) -> Response:
        """405 with all methods of the path; Starlette names those of its first route alone."""
        methods = self.openapi()["paths"].get(request.url.path)
        headers = getattr(error, "headers", None) or {}
        allow = {"Allow": ", ".join(map(str.upper, methods))} if methods else headers
        body = {"detail": "Method Not Allowed"}
        return JsonResponse(body, status_code=405, headers=allow)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        method = scope.get("method")
        if method is not None:
            refused = refusal(method, scope["headers"], self._known_host)
            if refused is not None:
                await error_response(*refused)(scope, receive, send)
                return
            if self._token_paths and self._lacks_token(scope["path"], scope["headers"]):
                response = error_response(401, _NO_TOKEN)
                response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        hot = self._hot.get(scope["path"]) if method == "POST" else None
        if hot is not None:
            await hot(scope, receive, send)
            return
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        if method is not None:
            receive = _limited(receive, self._max_bytes)
        await super().__call__(scope, receive, send)


async def _refuse_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, BodyTooLarge)
    return error_response(413, error.detail)


def add_operations(app: FastAPI, ready: Readiness) -> None:
    """Add `/healthz`, `/readyz`, `/metrics` and `/ping`.

    The app's `state.metrics_page` makes the page of metrics, `state.ready` is `ready`.

    Args:
        ready: Returns names and values of what readiness depends on; any False: not ready.
    """
    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "It cannot answer requests"}}
    app.state.metrics_page, app.state.ready = generate_latest, ready

    @app.get("/healthz", tags=["operations"], summary="Liveness: the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="Readiness: the service can answer requests",
        responses=not_ready,
    )
    async def readyz() -> Response:
        return _readiness(ready)

    @app.get(
        "/ping", tags=["SageMaker"], summary="Readiness, as SageMaker asks", responses=not_ready
    )
    async def ping() -> Response:
        return _readiness(ready)

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return Response(app.state.metrics_page(), media_type=CONTENT_TYPE_LATEST)


def _readiness(ready: Readiness) -> Response:
    parts = dict(ready())
    all_ready = all(value is not False for value in parts.values())
    return JsonResponse({"ready": all_ready, **parts}, status_code=200 if all_ready else 503)
