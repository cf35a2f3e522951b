"""Attacks by requests that are large, slow, or many; each must fail, and others be answered."""

import asyncio
import socket
from contextlib import asynccontextmanager, closing
from time import monotonic

import pytest
import uvicorn

from services.platform.runtime import bounded_http, metrics_server
from services.platform.runtime.bounded_http import BoundedProtocol
from services.platform.runtime.metrics_server import serve_metrics

GOOD = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def app(scope, receive, send):
    """Reads the body, and says how large it was."""
    assert scope["type"] == "http"
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving():
    """The port of a server with the bounds."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=BoundedProtocol, lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def answer(port: int, *parts: bytes) -> bytes:
    """The status line of what is answered; empty for none before the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def with_headers(count: int, size: int) -> bytes:
    lines = b"".join(b"h%d: %s\r\n" % (i, b"x" * size) for i in range(count))
    return b"GET / HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n"


async def test_headers_are_bounded_in_size_and_number():
    posted = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000\r\n\r\n"
    async with serving() as port:
        assert b"200" in await answer(port, with_headers(90, 100))
        assert b"200" in await answer(port, posted, b"x" * 90_000)
        assert b"200" in await answer(port, posted[:-1], b"", posted[-1:] + b"x" * 90_000)
        large = (with_headers(1, 40_000), with_headers(150, 1), GOOD[:5] + b"x" * 40_000 + GOOD[5:])
        for request in large:
            refused = await answer(port, request)
            assert not refused or b"400" in refused or b"431" in refused
        endless = [GOOD[:-2] + b"h: ", *[b"x" * 10_000] * 1_000]
        refused = await answer(port, *endless)
        assert not refused or b"431" in refused
        blank = await answer(port, *[b"\r\n" * 10_000] * 100)
        assert not blank or b"431" in blank
        assert b"200" in await answer(port, GOOD)


def closed(reader):
    """Whether the server has ended a connection, or reset it because more came after the end."""
    return reader.at_eof() or isinstance(reader.exception(), ConnectionError)


async def test_a_request_that_does_not_end_is_closed(monkeypatch):
    monkeypatch.setattr(bounded_http, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(bounded_http, "BODY_TIMEOUT_S", 0.3)
    posted = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n"
    async with serving() as port:
        for begun in (b"", GOOD[:20], GOOD + GOOD[:20], posted, posted + b"12345"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            since = monotonic()
            while monotonic() - since < 10 and not closed(reader):
                with_byte = begun and not begun.startswith(posted)
                writer.write(b"x" if with_byte else b"")
                await asyncio.wait([asyncio.create_task(reader.read(1_000))], timeout=0.05)
            assert closed(reader), begun
            writer.close()
        # What is complete waits for its answer, and for the next request.
        assert b"200" in await answer(port, posted, b"12345", b"67890")


async def test_connections_are_bounded_and_those_that_are_open_are_answered(monkeypatch):
    monkeypatch.setattr(bounded_http, "MAX_CONNECTIONS", 5)
    async with serving() as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert b"503" in await answer(port, b"")
        reader, writer = opened[0]
        for _ in range(2):
            writer.write(GOOD)
            assert b"200" in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(1)
        for _, each in opened:
            each.close()
        await asyncio.sleep(0.1)
        assert b"200" in await answer(port, GOOD)


def test_a_metrics_page_waits_for_none_for_long_and_has_few_threads(monkeypatch):
    monkeypatch.setattr(metrics_server._SilentHandler, "timeout", 0.5)
    port = serve_metrics("127.0.0.1", 0)
    opened = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(40)]
    try:
        assert all(each.recv(1) == b"" for each in opened)
    finally:
        for each in opened:
            each.close()
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as good:
        good.sendall(GOOD)
        assert good.recv(12) == b"HTTP/1.0 200"


@pytest.mark.parametrize("name", ["HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "MAX_CONNECTIONS"])
def test_there_are_bounds(name):
    assert 0 < getattr(bounded_http, name) <= 5_000
