"""A request that meets a closing connection is sent again; one that may have been read is not."""

import asyncio
import contextlib

import aiohttp
import pytest
import uvicorn

from services.platform.runtime import server
from services.platform.runtime.client import open_session, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class ClosingServer:
    """Answers `answers` requests on each connection, and closes it when the next one arrives.

    Attributes:
        bodies: Bodies received, also of requests without an answer.
    """

    def __init__(self, answers: int, last_words: bytes = b"") -> None:
        self.bodies: list[bytes] = []
        self._answers = answers
        self._last_words = last_words

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in range(self._answers + 1):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(OK if number < self._answers else self._last_words)
                await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self):
        listening = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with open_session(5.0) as http:
            yield http, f"http://127.0.0.1:{port}/"
        listening.close()


async def test_a_post_on_a_connection_that_closes_is_sent_again():
    closing = ClosingServer(answers=1)
    async with closing.running() as (http, url):
        for body in (b"one", b"two", b"three"):
            assert await post(http, url, data=body) == (200, b"ok")
    assert closing.bodies == [b"one", b"two", b"two", b"three", b"three"]


async def test_many_stale_connections_are_passed_over():
    closing = ClosingServer(answers=1)
    async with closing.running() as (http, url):
        for _ in range(2):
            answers = await asyncio.gather(*(post(http, url, data=b"x") for _ in range(20)))
            assert answers == [(200, b"ok")] * 20


async def test_a_new_connection_that_closes_is_an_error():
    closing = ClosingServer(answers=0)
    async with closing.running() as (http, url):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(http, url, data=b"one")
    assert closing.bodies == [b"one"]


async def test_a_response_that_breaks_off_is_not_asked_for_again():
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"
    closing = ClosingServer(answers=1, last_words=begun)
    async with closing.running() as (http, url):
        await post(http, url, data=b"one")
        with pytest.raises(aiohttp.ClientPayloadError):
            await post(http, url, data=b"two")
    assert closing.bodies == [b"one", b"two"]


def test_servers_keep_idle_connections_for_longer_than_clients_do(monkeypatch):
    seen = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(options))
    server.serve_app("module:factory", "127.0.0.1", 1)
    # Go's client keeps them for 90 s, nginx and AWS's load balancer for 60 s, aiohttp for 15 s.
    assert seen["timeout_keep_alive"] > 90
