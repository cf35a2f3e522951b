"""Hot paths at the ASGI interface: bodies in parts, and the responses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.types import Message

from services.platform.runtime.http import DirectApp, RawRequest

SCOPE = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"baggage", b"x")]}


class Word(BaseModel):
    text: str


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
    app.add_direct("/echo", echo, Word)
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
    app.add_direct("/echo", echo, Word, summary="Say it again")
    shown = app.openapi()["paths"]["/echo"]["post"]
    assert shown["summary"] == "Say it again"
    assert "description" not in shown
    assert shown["operationId"] == "echo_echo_post"
    [body] = shown["requestBody"]["content"].values()
    assert body["schema"] == {"$ref": "#/components/schemas/Word"}
    assert "Word" in app.openapi()["components"]["schemas"]


@pytest.fixture
def app() -> FastAPI:
    made = DirectApp(max_bytes=10)

    @made.get("/word")
    async def read() -> Word:
        return Word(text="hello")

    @made.post("/raw")
    async def raw(request: Request) -> Response:
        return Response(await request.body())

    @made.post("/word")
    async def write(word: Word) -> Word:
        return word

    return made


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.mark.parametrize("path", ["/raw", "/word"])
async def test_large_bodies_are_refused_on_every_path(app: FastAPI, path: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"12345"

    async with client(app) as http:
        for body in (b"123456789012345", parts()):
            answer = await http.post(path, content=body)
            assert answer.status_code == 413
            assert answer.json() == {"error": "body: more than 10 bytes"}
        assert (await http.post("/raw", content=b"1234567890")).status_code == 200


async def test_head_is_get_without_a_body(app: FastAPI) -> None:
    async with client(app) as http:
        get, head = await http.get("/word"), await http.head("/word")
        assert (head.status_code, head.content, head.headers) == (200, b"", get.headers)
        assert (await http.head("/nothing")).status_code == 404
        refused = await http.head("/raw")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
