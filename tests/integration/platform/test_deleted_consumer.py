"""A durable consumer, or its stream, that is deleted while its worker runs."""

import asyncio
from collections import Counter

import pytest

from services.fraud.ingestion.events import STREAM
from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.consumer import ALL_SUBJECTS, OrderedConsumer, consume
from services.platform.streaming.shared_consumer import SharedConsumer
from tests.integration.conftest import lag, until
from tests.integration.platform.test_stream import fill
from tests.streams import delete_stream


class Handled:
    """Counts the messages that it handles, in order; waits while it is held."""

    def __init__(self):
        self.numbers = []
        self.free = asyncio.Event()
        self.free.set()

    async def handle(self, batch):
        await self.free.wait()
        self.numbers += [int(message.data) for message in batch]


def working(consumer, handled):
    return asyncio.create_task(consume(consumer, handled.handle))


async def all_acknowledged(nc):
    return await lag(nc, STREAM, "d") == 0


async def test_a_deleted_consumer_is_made_again_and_goes_on(nc, caplog):
    await fill(nc, 20)
    handled = Handled()
    task = working(OrderedConsumer(nc, STREAM, "d"), handled)
    await until(lambda: len(handled.numbers) == 20)
    await until(lambda: all_acknowledged(nc))
    await nc.jetstream().delete_consumer(STREAM, "d")
    sent = nc.stats["out_msgs"]
    await asyncio.sleep(2.0)
    assert nc.stats["out_msgs"] - sent < 50
    await fill(nc, 10, begin=20)
    await until(lambda: len(handled.numbers) >= 30)
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(task)
    assert handled.numbers == list(range(30))
    assert "d was deleted: it is made again behind seq 20" in caplog.text


async def test_one_that_is_deleted_while_a_batch_is_handled_loses_and_repeats_nothing(nc):
    handled = Handled()
    task = working(OrderedConsumer(nc, STREAM, "d", batch=10), handled)
    await fill(nc, 10)
    await until(lambda: len(handled.numbers) == 10)
    handled.free.clear()
    await fill(nc, 30, begin=10)
    await nc.jetstream().delete_consumer(STREAM, "d")
    await fill(nc, 10, begin=40)
    handled.free.set()
    await until(lambda: len(handled.numbers) >= 50)
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(task)
    assert handled.numbers == list(range(50))


async def test_one_that_began_with_the_next_message_loses_none(nc):
    await fill(nc, 5)
    handled = Handled()
    task = working(OrderedConsumer(nc, STREAM, "d", new_only=True), handled)
    await until(lambda: all_acknowledged(nc))
    await nc.jetstream().delete_consumer(STREAM, "d")
    await fill(nc, 5, begin=5)
    await until(lambda: len(handled.numbers) >= 5)
    await cancel_tasks(task)
    assert handled.numbers == list(range(5, 10))


async def test_a_stream_that_is_deleted_ends_the_worker_with_the_remedy(config, nc):
    await fill(nc, 3)
    handled = Handled()
    task = working(OrderedConsumer(nc, STREAM, "d"), handled)
    await until(lambda: len(handled.numbers) == 3)
    await delete_stream(config, nc.jetstream(), STREAM)
    with pytest.raises(RuntimeError, match=f"no stream {STREAM}: `whiteboard up`"):
        async with asyncio.timeout(30.0):
            await task
    with pytest.raises(RuntimeError, match=f"no stream {STREAM}: `whiteboard up`"):
        await OrderedConsumer(nc, STREAM, "d").start()


async def test_owners_of_a_shared_one_go_on_together(nc):
    await fill(nc, 30)
    owners = [SharedConsumer(nc, STREAM, "d", ALL_SUBJECTS, 8, before="before") for _ in "ab"]
    handled = [Handled() for _ in owners]
    tasks = [working(*pair) for pair in zip(owners, handled, strict=True)]

    def seen():
        return Counter(number for one in handled for number in one.numbers)

    await until(lambda: len(seen()) == 30)
    await until(lambda: all_acknowledged(nc))
    await asyncio.sleep(5.0)  # they note what is acknowledged every few seconds
    await nc.jetstream().delete_consumer(STREAM, "d")
    sent = nc.stats["out_msgs"]
    await asyncio.sleep(2.0)
    assert nc.stats["out_msgs"] - sent < 50
    await fill(nc, 30, begin=30)
    await until(lambda: len(seen()) == 60)
    await until(lambda: all_acknowledged(nc))
    await cancel_tasks(*tasks)
    assert max(seen()[number] for number in range(30)) == 1
