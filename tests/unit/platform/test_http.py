"""A hot path as the server sees it: what it is told in parts, and what it answers."""

import asyncio
from typing import Any

from fastapi import Response
from starlette.types import Message

from services.platform.runtime.http import DirectApp, Posted

SCOPE = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"baggage", b"x")]}


def answers(*parts: Message) -> list[Message]:
    """What the application sends for a request that comes in parts; the last one comes for ever."""
    told, sent = list(parts), []

    async def receive() -> Message:
        return told.pop(0) if len(told) > 1 else told[0]

    async def send(message: Message) -> None:
        sent.append(message)

    async def echo(posted: Posted) -> Response:
        return Response(posted.path.encode() + b" " + posted.body)

    app = DirectApp(most_bytes=10)
    app.add_direct("/echo", echo)
    asyncio.run(app(dict(SCOPE), receive, send))
    return sent


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_read_to_its_end() -> None:
    begin, body = answers(part(b"one", True), part(b"", True), part(b" two", False))
    assert begin["status"] == 200
    assert body["body"] == b"/echo one two"


def test_an_empty_body_need_not_be_sent() -> None:
    assert answers({"type": "http.request"})[1]["body"] == b"/echo "


def test_a_body_that_never_ends_is_refused_at_the_limit() -> None:
    begin, body = answers(part(b"1234", True))
    assert begin["status"] == 413
    assert body["body"] == b'{"error":"body: more than 10 bytes"}'


def test_the_limit_itself_is_allowed() -> None:
    assert answers(part(b"1234567890", False))[0]["status"] == 200


def test_who_hangs_up_within_a_body_is_not_answered() -> None:
    assert answers(part(b"one", True), {"type": "http.disconnect"}) == []


def test_the_page_of_its_documentation_says_what_the_endpoint_is() -> None:
    async def echo(posted: Posted) -> Response:
        return Response(posted.body)

    app = DirectApp(most_bytes=10)
    app.add_direct("/echo", echo, summary="Say it again")
    shown = app.openapi()["paths"]["/echo"]["post"]
    assert shown["summary"] == "Say it again"
    assert "description" not in shown
    assert shown["operationId"] == "echo_echo_post"
