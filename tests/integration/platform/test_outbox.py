"""The outbox before a real stream: many at once, and none twice."""

import pytest

from services.fraud.ingestion.events import DECISION, DECISIONS_STREAM
from services.platform.streaming.outbox import Outbox
from tests.integration.conftest import until

BATCH = 40


@pytest.fixture
async def outbox(nc, tmp_path):
    box = Outbox(nc, tmp_path, most_events=1_000, most_bytes=1 << 20)
    yield box
    await box.close()


def put(box, numbers):
    for number in numbers:
        box.put(f"{DECISION}.{number % 4}", f"id-{number}", b"%d" % number)


async def stored(nc, count):
    """What the stream keeps once it has so many, in order."""
    js = nc.jetstream()

    async def enough():
        return (await js.stream_info(DECISIONS_STREAM)).state.messages >= count

    await until(enough)
    return [await js.get_msg(DECISIONS_STREAM, n + 1) for n in range(count)]


async def test_many_go_as_one_batch_in_their_order(nc, outbox):
    put(outbox, range(BATCH))
    outbox.start()
    kept = await stored(nc, BATCH)
    assert [int(m.data) for m in kept] == list(range(BATCH))
    assert len({m.headers["Nats-Batch-Id"] for m in kept}) == 1


async def test_a_few_go_one_by_one(nc, outbox):
    put(outbox, range(3))
    outbox.start()
    kept = await stored(nc, 3)
    assert [int(m.data) for m in kept] == [0, 1, 2]
    assert not any("Nats-Batch-Id" in m.headers for m in kept)


async def test_a_batch_with_events_that_the_stream_has_adds_the_others(nc, outbox):
    await nc.jetstream().publish(f"{DECISION}.7", b"7", headers={"Nats-Msg-Id": "id-7"})
    put(outbox, range(BATCH))
    outbox.start()
    assert sorted(int(m.data) for m in await stored(nc, BATCH)) == list(range(BATCH))


async def test_without_its_stream_a_batch_waits_on_disk(nc, outbox):
    js = nc.jetstream()
    stream = (await js.stream_info(DECISIONS_STREAM)).config
    await js.delete_stream(DECISIONS_STREAM)
    put(outbox, range(BATCH))
    outbox.start()
    await until(lambda: outbox._spill.count == BATCH)
    await js.add_stream(stream)
    assert [int(m.data) for m in await stored(nc, BATCH)] == list(range(BATCH))
