"""The ordered consumer against a real server: order, restarts, gaps, dead letters."""

import asyncio
from datetime import UTC, datetime

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from services.fraud.ingestion.events import DEAD, DEAD_STREAM, STREAM
from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.connection import ensure_bucket, ensure_stream
from services.platform.streaming.consumer import (
    OrderedConsumer,
    _parse_ack_subject,
    consume,
    dead_letter,
    wait_until_acknowledged,
)
from services.platform.streaming.stored import stored_between
from tests.integration.conftest import until
from tests.streams import delete_stream


async def fill(nc, count, begin=0):
    js = nc.jetstream()
    for n in range(begin, begin + count):
        await js.publish("fraud.tx.0.0.0.0", str(n).encode())


async def take(consumer, count):
    """The first `count` messages: the last batch may contain more."""
    seen = []
    async for batch in consumer.batches():
        seen += batch
        if len(seen) >= count:
            break
    return seen[:count]


async def acknowledged(consumer, seq):
    """Wait until the server has processed an acknowledgement, which takes a moment."""

    async def processed():
        return await consumer.ack_floor() >= seq

    await until(processed)


async def test_messages_arrive_in_order_and_resume_behind_the_last_acknowledged(nc):
    await fill(nc, 50)
    first = OrderedConsumer(nc, STREAM, "d", batch=20)
    await first.start()
    seen = await take(first, 20)
    assert [int(m.data) for m in seen] == list(range(20))
    await first.ack(seen[9])
    await acknowledged(first, 10)
    # The owner dies with ten messages in flight; newer ones must not overtake them.
    await fill(nc, 5, begin=50)
    second = OrderedConsumer(nc, STREAM, "d", batch=20)
    await second.start()
    assert [int(m.data) for m in await take(second, 45)] == list(range(10, 55))


async def test_a_lost_delivery_restarts_the_consumer_in_order(nc):
    await fill(nc, 30)
    consumer = OrderedConsumer(nc, STREAM, "d", batch=10)
    await consumer.start()
    seen = await take(consumer, 10)
    await consumer.ack(seen[-1])
    await acknowledged(consumer, 10)
    await consumer._pull()
    await until(lambda: len(consumer._buffer) >= 5)
    del consumer._buffer[1]  # as if a connection broke while messages were in flight
    rest = await take(consumer, 20)
    assert [int(m.data) for m in rest] == list(range(10, 30))


async def test_pull_requests_do_not_accumulate(nc, monkeypatch):
    monkeypatch.setattr("services.platform.streaming.consumer._PULL_EXPIRES_S", 0.2)
    consumer = OrderedConsumer(nc, STREAM, "d", batch=10, max_wait_s=0.05)
    await consumer.start()
    reading = asyncio.create_task(take(consumer, 1_000))
    for begin in range(0, 60, 12):
        await fill(nc, 12, begin)
        await asyncio.sleep(0.5)
    waiting = (await nc.jetstream().consumer_info(STREAM, "d")).num_waiting
    await cancel_tasks(reading)
    assert 1 <= waiting <= 2


async def test_a_batch_is_retried_until_it_succeeds(nc):
    await fill(nc, 3)
    tries = []

    async def handle(batch):
        tries.append([int(m.data) for m in batch])
        if len(tries) == 1:
            raise OSError("the store is unavailable")

    consumer = OrderedConsumer(nc, STREAM, "d")
    task = asyncio.create_task(consume(consumer, handle))

    async def done():
        return len(tries) > 1 and not await consumer.lag()

    await until(done)
    await cancel_tasks(task)
    assert tries[0] == tries[1]


@pytest.mark.parametrize("turns", range(4))
async def test_cancelled_as_a_message_arrives_it_ends(nc, turns):
    consumer = OrderedConsumer(nc, STREAM, "d")
    await consumer.start()
    reading = asyncio.create_task(anext(consumer.batches()))
    await until(lambda: consumer._outstanding)
    consumer._arrived.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading], timeout=1.0)
    assert reading.cancelled()


async def test_a_batch_gathers_messages_until_its_maximum_wait(nc):
    consumer = OrderedConsumer(nc, STREAM, "d", batch=100, max_wait_s=0.5)
    await consumer.start()
    taking = asyncio.create_task(anext(consumer.batches()))
    for n in range(10):
        await fill(nc, 1, begin=n)
        await asyncio.sleep(0.01)
    assert len(await taking) == 10


async def test_a_stream_can_start_at_a_sequence(config, nc):
    js = nc.jetstream()
    await delete_stream(config, js, STREAM)
    await ensure_stream(js, STREAM, ["fraud.tx.>"], first_seq=1_001)
    assert (await js.publish("fraud.tx.0.0.0.0", b"")).seq == 1_001


async def test_an_older_stream_is_updated_to_allow_atomic_batches(config, nc):
    js = nc.jetstream()
    await delete_stream(config, js, STREAM)
    await js.add_stream(StreamConfig(name=STREAM, subjects=["fraud.tx.>"], first_seq=1_001))
    await fill(nc, 3)
    await ensure_stream(js, STREAM, ["fraud.tx.>"])
    info = await js.stream_info(STREAM)
    assert info.config.allow_atomic
    assert (info.state.first_seq, info.state.messages) == (1_001, 3)


async def test_a_bucket_forgets_old_entries(nc):
    js = nc.jetstream()
    for name, max_age_s in (("reports", 600.0), ("for_ever", 0.0)):
        bucket = await ensure_bucket(js, name, max_age_s)
        await bucket.put("a", b"1")
        assert (await js.stream_info(f"KV_{name}")).config.max_age == max_age_s
        assert (await bucket.get("a")).value == b"1"


async def test_an_owner_with_a_checkpoint_starts_there(nc):
    await fill(nc, 10)
    first = OrderedConsumer(nc, STREAM, "d")
    await first.start(after=4)
    seen = await take(first, 6)
    assert [int(m.data) for m in seen] == list(range(4, 10))
    await first.ack(seen[-1])
    await acknowledged(first, 10)
    second = OrderedConsumer(nc, STREAM, "d")
    await second.start(after=8)
    assert [int(m.data) for m in await take(second, 2)] == [8, 9]
    # A checkpoint of another stream, beyond the end of this one.
    third = OrderedConsumer(nc, STREAM, "d")
    await third.start(after=1_000)
    assert [int(m.data) for m in await take(third, 10)] == list(range(10))


async def test_a_dead_letter_is_published_once_with_its_reason(nc):
    await fill(nc, 1)
    consumer = OrderedConsumer(nc, STREAM, "d")
    await consumer.start()
    [message] = await take(consumer, 1)
    js = nc.jetstream()
    for _ in range(2):
        await dead_letter(js, DEAD, "d", message, "amount_minor:\nmust be positive")
    info = await js.stream_info(DEAD_STREAM)
    assert info.state.messages == 1
    kept = await js.get_msg(DEAD_STREAM, seq=info.state.last_seq)
    assert kept.subject == f"{DEAD}.d"
    assert kept.headers["Reason"] == "amount_minor: must be positive"


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.FRAUD.features.2.17.9.1764135000123456789.40",
        "$JS.ACK.hub.ACCOUNT.FRAUD.features.2.17.9.1764135000123456789.40.token",
    ],
)
def test_ack_subjects_are_parsed_as_the_client_does(reply):
    theirs = Msg(_client=None, reply=reply).metadata
    assert _parse_ack_subject(reply)[:2] == (theirs.sequence.stream, theirs.sequence.consumer)
    assert _parse_ack_subject(reply)[2] // 1_000_000_000 == int(theirs.timestamp.timestamp())


async def test_the_messages_of_a_time_are_found_around_deleted_ones(nc):
    js = nc.jetstream()
    times = [datetime.now(UTC)]
    for begin in (0, 4, 8):
        await fill(nc, 4, begin)
        await asyncio.sleep(0.05)
        times.append(datetime.now(UTC))
    for seq in (5, 6, 12):
        assert await js.delete_msg(STREAM, seq)
    assert await stored_between(js, STREAM, times[0], times[1]) == (0, 4)
    # The fifth and sixth are gone: from behind the fourth up to the eighth.
    after, last = await stored_between(js, STREAM, times[1], times[2])
    assert (after, last) == (4, 8)
    after, last = await stored_between(js, STREAM, times[2], times[3])
    assert (after, last) == (8, 11)
    assert await stored_between(js, DEAD_STREAM, times[0], times[3]) == (0, 0)


async def test_what_a_stream_holds_now_is_waited_for_and_no_more(nc):
    js = nc.jetstream()
    assert not await wait_until_acknowledged(js, [(STREAM, "none")], 0.3)
    await fill(nc, 20)
    consumer = OrderedConsumer(nc, STREAM, "d", batch=20)
    await consumer.start()
    seen = await take(consumer, 20)
    assert not await wait_until_acknowledged(js, [(STREAM, "d")], 0.3)
    waiting = asyncio.create_task(wait_until_acknowledged(js, [(STREAM, "d")], 30.0))
    await asyncio.sleep(0.3)
    await fill(nc, 5, begin=20)
    await consumer.ack(seen[-1])
    assert await waiting
