"""The proxy makes connections bad and nothing else; an engine goes behind it and comes back."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from redis.exceptions import RedisError

from infra.local.bad_link import _stop, behind_proxy
from infra.local.engines import engines, free_port
from infra.local.supervisor import Supervisor
from services.platform.runtime.tcp_proxy import BadLink, TcpProxy
from services.platform.settings import Settings

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"


@asynccontextmanager
async def echo_behind(link):
    """Connections to an echo server through a proxy."""

    async def echo(reader, writer):
        while data := await reader.read(4_096):
            writer.write(data)
            await writer.drain()
        writer.close()

    target = await asyncio.start_server(echo, HOST, 0)
    proxy = TcpProxy(link, HOST, target.sockets[0].getsockname()[1])
    server = await proxy.serve(HOST, 0)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        await proxy.close(server)
        target.close()


async def test_bytes_arrive_in_order_after_the_latency():
    sent = bytes(range(256)) * 2_000
    async with echo_behind(BadLink(40, 10, 0)) as (proxy, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        begin = time.perf_counter()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert time.perf_counter() - begin >= 0.04
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()
        assert (proxy.connections, proxy.resets) == (1, 0)


async def test_a_reset_is_seen_as_one():
    async with echo_behind(BadLink(0, 0, 1.0)) as (proxy, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await reader.readexactly(1)
        writer.close()
        assert proxy.resets == 1


async def test_what_does_not_listen_ends_the_connection():
    proxy = TcpProxy(BadLink(), HOST, free_port())
    server = await proxy.serve(HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(10):
            await reader.readexactly(1)
    writer.close()
    await proxy.close(server)


async def test_redis_goes_behind_a_proxy_and_comes_back_with_its_rows(tmp_path):
    config = Settings(home=tmp_path, redis_port=free_port())
    supervisor = Supervisor(config)
    [redis] = [program for program in engines(config) if program.name == "redis"]
    supervisor.start([redis])
    try:
        await asyncio.to_thread(_until_answered, config.redis)
        with Redis.from_url(config.redis) as client:
            client.set("row", "kept")
        bad = asyncio.create_task(behind_proxy(config, supervisor, "redis", BadLink(60, 0, 0), 6))
        while supervisor.states()["redis"] != "STOPPED":
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(_until_answered, config.redis) >= 0.06
        proxy = await bad
        assert proxy.connections >= 1
        assert supervisor.states()["redis"] == "RUNNING"
        await asyncio.to_thread(_until_answered, config.redis)
        with Redis.from_url(config.redis) as client:
            assert client.get("row") == b"kept"
        with pytest.raises(KeyError, match="scorer"):
            await behind_proxy(config, supervisor, "scorer", BadLink(), 1)
    finally:
        supervisor.stop(lambda _: None)


async def test_an_engine_that_ignores_a_stop_is_killed():
    command = ("sh", "-c", "trap '' TERM; echo; exec sleep 60")
    engine = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await engine.stdout.readline()
    await _stop(engine, timeout_s=0.2)
    assert engine.returncode == -signal.SIGKILL


def _until_answered(url, seconds=60.0):
    """Wait until Redis answers. Returns how long one answer took, without the connection's."""
    end = time.monotonic() + seconds
    while True:
        try:
            with Redis.from_url(url) as client:
                client.ping()
                begin = time.perf_counter()
                client.ping()
                return time.perf_counter() - begin
        except RedisError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
