"""The shared connection to Redis: answers find their askers, and it comes back after an outage."""

import asyncio
import time

import pytest
import uvloop
from redis.exceptions import ResponseError

from features.redis_connection import RedisLink
from infra.local.engines import engines
from tests.conftest import make_settings, start
from tests.integration.conftest import until


@pytest.fixture
def redis(tmp_path):
    """A Redis of this test's own, which it may stop, and how to start it again."""
    made = make_settings(tmp_path)
    process = next(p for p in engines(made) if p.name == "redis")
    running = [start(process, tmp_path)]
    yield made, running, lambda: running.append(start(process, tmp_path))
    running[-1].kill()
    running[-1].wait(10)


async def test_answers_find_their_askers(redis):
    link = RedisLink(redis[0].redis)
    await link.ask([("SET", f"k{n}", f"v{n}") for n in range(50)])
    asked = [link.ask([("GET", f"k{n}"), ("GET", "none")]) for n in range(50)]
    assert await asyncio.gather(*asked) == [[f"v{n}".encode(), None] for n in range(50)]
    assert await link.ask([]) == []
    link.close()


async def test_who_gives_up_waiting_disturbs_nobody(redis):
    link = RedisLink(redis[0].redis)
    await link.ask([("SET", "a", "1")])
    slow = asyncio.create_task(link.ask([("DEBUG", "SLEEP", "0.2"), ("GET", "a")]))
    await asyncio.sleep(0.05)
    slow.cancel()
    assert await link.ask([("GET", "a")]) == [b"1"]
    link.close()


async def test_who_waits_too_long_is_told_and_the_patient_are_answered(redis):
    link = RedisLink(redis[0].redis)
    await link.ask([("SET", "a", "1")])
    slow = asyncio.create_task(link.ask([("DEBUG", "SLEEP", "0.3")], 0.05))
    await asyncio.sleep(0)
    hasty = asyncio.create_task(link.ask([("GET", "a")], 0.1))
    patient = asyncio.create_task(link.ask([("GET", "a")], 5.0))
    for late in (slow, hasty):
        with pytest.raises(TimeoutError, match="in time"):
            await late
    assert await patient == [b"1"]
    # The late answers were taken off the wire: the next asker gets its own.
    assert await link.ask([("PING",)], 0.2) == [b"PONG"]
    link.close()


def test_on_uvloop_too_time_that_is_up_is_up(redis):
    """Its timers are other objects where they are due at once."""

    async def ask():
        link = RedisLink(redis[0].redis)
        await link.ask([("SET", "a", "1")])
        asked = [link.ask([("DEBUG", "SLEEP", "0.1")], 0.0) for _ in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in found] == [TimeoutError] * 3
        assert await link.ask([("GET", "a")]) == [b"1"]
        link.close()

    uvloop.run(ask())


async def test_an_answer_that_came_while_the_loop_was_held_up_is_taken(redis):
    link = RedisLink(redis[0].redis)
    await link.ask([("SET", "a", "1")])
    asked = asyncio.create_task(link.ask([("GET", "a")], 0.05))
    for _ in range(3):
        await asyncio.sleep(0)
    time.sleep(0.2)
    assert await asked == [b"1"]
    link.close()


async def test_a_refused_command_and_a_wrong_password_are_named(redis):
    link = RedisLink(redis[0].redis)
    with pytest.raises(ResponseError, match="unknown command"):
        await link.ask([("DANCE",)])
    assert await link.ask([("PING",)]) == [b"PONG"]
    link.close()
    wrong = RedisLink(f"redis://:wrong@127.0.0.1:{redis[0].redis_port}/0")
    with pytest.raises(ResponseError, match="WRONGPASS"):
        await wrong.ask([("PING",)])


async def test_it_comes_back_after_an_outage(redis):
    made, running, again = redis
    link = RedisLink(made.redis)
    await link.ask([("SET", "a", "1")])
    waiting = asyncio.create_task(link.ask([("DEBUG", "SLEEP", "5")]))
    await asyncio.sleep(0.1)
    running[-1].kill()
    running[-1].wait(10)
    with pytest.raises(OSError, match="went away"):
        await waiting
    with pytest.raises(ConnectionRefusedError):
        await link.ask([("PING",)])
    again()

    async def answers():
        try:
            return await link.ask([("GET", "a")]) == [b"1"]
        except (OSError, ResponseError):
            return False

    await until(answers, 10)
    link.close()
