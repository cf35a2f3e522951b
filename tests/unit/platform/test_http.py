"""Hot paths at the ASGI interface: bodies in parts, and the responses."""

import asyncio
from typing import Any

from fastapi import Response
from starlette.types import Message

from services.platform.runtime.http import DirectApp, RawRequest

SCOPE = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"baggage", b"x")]}


def answers(*parts: Message) -> list[Message]:
    """What the application sends for a request in parts; the last part repeats forever."""
    queue, sent = list(parts), []

    async def receive() -> Message:
        return queue.pop(0) if len(queue) > 1 else queue[0]

    async def send(message: Message) -> None:
        sent.append(message)

    async def echo(request: RawRequest) -> Response:
        return Response(request.path.encode() + b" " + request.body)

    app = DirectApp(max_bytes=10)
    app.add_direct("/echo", echo)
    asyncio.run(app(dict(SCOPE), receive, send))
    return sent


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_read_completely() -> None:
    begin, body = answers(part(b"one", True), part(b"", True), part(b" two", False))
    assert begin["status"] == 200
    assert body["body"] == b"/echo one two"


def test_a_request_without_a_body_is_answered() -> None:
    assert answers({"type": "http.request"})[1]["body"] == b"/echo "


def test_an_endless_body_is_refused_at_the_limit() -> None:
    begin, body = answers(part(b"1234", True))
    assert begin["status"] == 413
    assert body["body"] == b'{"error":"body: more than 10 bytes"}'


def test_a_body_of_the_maximum_size_is_allowed() -> None:
    assert answers(part(b"1234567890", False))[0]["status"] == 200


def test_a_client_that_disconnects_gets_no_answer() -> None:
    assert answers(part(b"one", True), {"type": "http.disconnect"}) == []


def test_a_hot_endpoint_is_documented() -> None:
    async def echo(request: RawRequest) -> Response:
        return Response(request.body)

    app = DirectApp(max_bytes=10)
    app.add_direct("/echo", echo, summary="Say it again")
    shown = app.openapi()["paths"]["/echo"]["post"]
    assert shown["summary"] == "Say it again"
    assert "description" not in shown
    assert shown["operationId"] == "echo_echo_post"
