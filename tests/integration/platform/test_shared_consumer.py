"""The shared consumer against a real server: several owners, a dead one, a durable of before."""

import asyncio
from collections import Counter

import pytest

from services.fraud.ingestion.events import STREAM
from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.consumer import ALL_SUBJECTS, OrderedConsumer, consume
from services.platform.streaming.shared_consumer import SharedConsumer
from tests.integration.conftest import lag, until
from tests.integration.platform.test_stream import acknowledged, fill, take

pytestmark = pytest.mark.slow


def shared(nc):
    return SharedConsumer(nc, STREAM, "d", ALL_SUBJECTS, 8, before="before")


def working(nc, seen, name, delay_s=0.005):
    """A task that handles messages, and counts them by owner and payload."""

    async def handle(batch):
        await asyncio.sleep(delay_s * len(batch))
        for message in batch:
            seen[name, int(message.data)] += 1

    return asyncio.create_task(consume(shared(nc), handle))


async def all_acknowledged(nc):
    return await lag(nc, STREAM, "d") == 0


async def test_owners_share_the_messages_and_each_is_handled_once(nc):
    await fill(nc, 200)
    seen = Counter()
    tasks = [working(nc, seen, name) for name in ("a", "b", "c")]
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(*tasks)
    assert sorted(number for _, number in seen) == list(range(200))
    assert set(seen.values()) == {1}
    assert min(Counter(name for name, _ in seen).values()) > 10


async def test_what_a_dead_owner_had_goes_to_another(nc, monkeypatch):
    monkeypatch.setattr("services.platform.streaming.shared_consumer._ACK_WAIT_S", 1.0)
    await fill(nc, 30)
    dead = shared(nc)
    await dead.start()
    await take(dead, 8)
    await dead.stop()
    seen = Counter()
    task = working(nc, seen, "b")
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(task)
    assert sorted(number for _, number in seen) == list(range(30))


async def test_a_slow_owner_keeps_what_it_has(nc, monkeypatch):
    monkeypatch.setattr("services.platform.streaming.shared_consumer._ACK_WAIT_S", 1.0)
    await fill(nc, 24)
    seen = Counter()
    tasks = [working(nc, seen, name, delay_s=0.3) for name in ("a", "b")]
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(*tasks)
    assert sorted(number for _, number in seen) == list(range(24))
    assert set(seen.values()) == {1}


async def test_a_durable_of_a_single_owner_is_replaced_where_it_stopped(nc):
    await fill(nc, 20)
    before = OrderedConsumer(nc, STREAM, "before", batch=10)
    await before.start()
    taken = await take(before, 10)
    await before.ack(taken[-1])
    await acknowledged(before, taken[-1].seq)
    await before.stop()
    seen = Counter()
    tasks = [working(nc, seen, name) for name in ("a", "b")]
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(*tasks)
    assert sorted({number for _, number in seen}) == list(range(10, 20))
    assert await lag(nc, STREAM, "before") == 1  # it is gone


async def test_it_has_no_position_of_its_own(nc):
    with pytest.raises(ValueError, match="no position"):
        await shared(nc).start(after=3)
