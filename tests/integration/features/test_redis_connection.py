"""The shared Redis connection: replies reach their callers, and it reconnects after an outage."""

import asyncio
import time

import pytest
import uvloop
from redis.exceptions import ResponseError

from features import redis_connection
from features.redis_connection import RedisConnection
from infra.local.engines import engines
from tests.conftest import make_settings, start_engine
from tests.integration.conftest import until


@pytest.fixture
def redis(tmp_path):
    """A Redis for this test, which may stop it, and a function that starts it again."""
    made = make_settings(tmp_path)
    process = next(p for p in engines(made) if p.name == "redis")
    # DEBUG SLEEP makes it late; outside this test no account has it.
    conf = process.directory / "redis.conf"
    conf.write_text(conf.read_text().replace("+dbsize", "+dbsize +debug"))
    running = [start_engine(process, tmp_path)]
    yield made, running, lambda: running.append(start_engine(process, tmp_path))
    running[-1].kill()
    running[-1].wait(10)


async def test_replies_reach_their_callers(redis):
    connection = RedisConnection(redis[0].redis)
    await connection.execute([("SET", f"k{n}", f"v{n}") for n in range(50)])
    calls = [connection.execute([("GET", f"k{n}"), ("GET", "none")]) for n in range(50)]
    assert await asyncio.gather(*calls) == [[f"v{n}".encode(), None] for n in range(50)]
    assert await connection.execute([]) == []
    connection.close()


async def test_a_cancelled_call_does_not_disturb_others(redis):
    connection = RedisConnection(redis[0].redis)
    await connection.execute([("SET", "a", "1")])
    slow = asyncio.create_task(connection.execute([("DEBUG", "SLEEP", "0.2"), ("GET", "a")]))
    await asyncio.sleep(0.05)
    slow.cancel()
    assert await connection.execute([("GET", "a")]) == [b"1"]
    connection.close()


async def test_overdue_calls_time_out_and_others_get_their_replies(redis):
    connection = RedisConnection(redis[0].redis)
    await connection.execute([("SET", "a", "1")])
    slow = asyncio.create_task(connection.execute([("DEBUG", "SLEEP", "0.3")], 0.05))
    await asyncio.sleep(0)
    short = asyncio.create_task(connection.execute([("GET", "a")], 0.1))
    long = asyncio.create_task(connection.execute([("GET", "a")], 5.0))
    for late in (slow, short):
        with pytest.raises(TimeoutError, match="in time"):
            await late
    assert await long == [b"1"]
    # The late replies were read and dropped: the next call gets its own.
    assert await connection.execute([("PING",)], 0.2) == [b"PONG"]
    connection.close()


async def test_a_login_that_times_out_leaves_no_socket(tmp_path):
    """A server that accepts and never answers."""
    closed = asyncio.Event()

    async def accept(reader, writer):
        while await reader.read(100):
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_unix_server(accept, tmp_path / "socket")
    async with server:
        connection = RedisConnection(f"unix://user:password@{tmp_path / 'socket'}")
        with pytest.raises(TimeoutError):
            await connection.execute([("PING",)], 0.1)
        async with asyncio.timeout(5.0):
            await closed.wait()


def test_overdue_calls_time_out_on_uvloop_too(redis):
    """uvloop's timers that are already due are other objects."""

    async def run():
        connection = RedisConnection(redis[0].redis)
        await connection.execute([("SET", "a", "1")])
        calls = [connection.execute([("DEBUG", "SLEEP", "0.1")], 0.0) for _ in range(3)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [TimeoutError] * 3
        assert await connection.execute([("GET", "a")]) == [b"1"]
        connection.close()

    uvloop.run(run())


async def test_a_reply_that_arrived_while_the_loop_was_blocked_counts(redis):
    connection = RedisConnection(redis[0].redis)
    await connection.execute([("SET", "a", "1")])
    calls = asyncio.create_task(connection.execute([("GET", "a")], 0.05))
    for _ in range(3):
        await asyncio.sleep(0)
    time.sleep(0.2)
    assert await calls == [b"1"]
    connection.close()


LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_late_to_send_is_not_counted_against_redis(redis, run):
    """The commands are sent long after the call; Redis then needs half of the timeout."""

    async def late():
        connection = RedisConnection(redis[0].redis)
        await connection.execute([("SET", "a", "1")])
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, 0.1)  # runs before the commands are sent
        call = connection.execute([("DEBUG", "SLEEP", "0.02"), ("GET", "a")], 0.04)
        assert await call == [b"OK", b"1"]
        connection.close()

    run(late())


@pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)
def test_a_reply_in_the_socket_is_read_before_the_call_times_out(redis, run):
    """Whatever runs first when the blocked loop goes on: the reply has arrived and is used."""

    async def blocked():
        connection = RedisConnection(redis[0].redis)
        await connection.execute([("SET", "a", "1")])
        commands = [("DEBUG", "SLEEP", "0.05"), ("GET", "a")]
        call = asyncio.ensure_future(connection.execute(commands, 0.02))
        for _ in range(4):
            await asyncio.sleep(0)  # sent, and the clock runs
        time.sleep(0.1)  # the reply arrives, and the deadline passes
        connection._protocol._expire()  # the timer's turn comes first
        assert not call.done()
        time.sleep(0.1)  # and late once more
        assert await call == [b"OK", b"1"]
        connection.close()

    run(blocked())


@pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)
def test_many_calls_on_a_busy_loop_get_their_replies(redis, run):
    """As at saturation: each turn of the loop lasts longer than the timeout of a call."""

    async def busy():
        connection = RedisConnection(redis[0].redis)
        await connection.execute([("SET", "a", "1")])

        async def one():
            reply = await connection.execute([("GET", "a")], 0.02)
            time.sleep(0.002)
            return reply

        for _ in range(3):
            assert await asyncio.gather(*(one() for _ in range(40))) == [[b"1"]] * 40
        connection.close()

    run(busy())


async def test_replies_to_others_do_not_delay_a_timeout_for_long(redis, monkeypatch):
    class AlwaysReadable:
        def register(self, *_):
            pass

        def poll(self, _):
            return [True]

    connection = RedisConnection(redis[0].redis)
    await connection.execute([("SET", "a", "1")])
    monkeypatch.setattr(redis_connection.select, "poll", AlwaysReadable)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        await connection.execute([("DEBUG", "SLEEP", "0.3")], 0.02)
    assert 0.02 < time.monotonic() - begin < 0.2
    connection.close()


async def test_a_refused_command_and_a_wrong_password_are_reported(redis):
    connection = RedisConnection(redis[0].redis)
    with pytest.raises(ResponseError, match="unknown command"):
        await connection.execute([("DANCE",)])
    assert await connection.execute([("PING",)]) == [b"PONG"]
    connection.close()
    wrong = RedisConnection(f"redis://:wrong@127.0.0.1:{redis[0].redis_port}/0")
    with pytest.raises(ResponseError, match="WRONGPASS"):
        await wrong.execute([("PING",)])


async def test_it_reconnects_after_an_outage(redis):
    made, running, again = redis
    connection = RedisConnection(made.redis)
    await connection.execute([("SET", "a", "1")])
    waiting = asyncio.create_task(connection.execute([("DEBUG", "SLEEP", "5")]))
    await asyncio.sleep(0.1)
    running[-1].kill()
    running[-1].wait(10)
    with pytest.raises(OSError, match="was lost"):
        await waiting
    with pytest.raises(ConnectionRefusedError):
        await connection.execute([("PING",)])
    again()

    async def answers():
        try:
            return await connection.execute([("GET", "a")]) == [b"1"]
        except (OSError, ResponseError):
            return False

    await until(answers, 10)
    connection.close()
