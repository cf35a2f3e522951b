"""The outbox with a real stream: atomic batches, and no duplicates."""

import pytest

from services.fraud.ingestion.events import DECISION, DECISIONS_STREAM
from services.platform.streaming.orphans import held, take_over
from services.platform.streaming.outbox import Outbox
from services.platform.streaming.spill_file import OutboxEvent, SpillFile
from tests.integration.conftest import until
from tests.streams import delete_stream

BATCH = 40


@pytest.fixture
async def outbox(nc, tmp_path):
    box = Outbox(nc, tmp_path, max_events=1_000, max_bytes=1 << 20)
    yield box
    await box.close()


def put(box, numbers):
    for number in numbers:
        box.put(f"{DECISION}.{number % 4}", f"id-{number}", b"%d" % number)


async def stored(nc, count):
    """The first `count` messages of the stream, once it has them."""
    js = nc.jetstream()

    async def enough():
        return (await js.stream_info(DECISIONS_STREAM)).state.messages >= count

    await until(enough)
    return [await js.get_msg(DECISIONS_STREAM, n + 1) for n in range(count)]


async def test_many_events_are_published_as_one_batch_in_order(nc, outbox):
    put(outbox, range(BATCH))
    outbox.start()
    kept = await stored(nc, BATCH)
    assert [int(m.data) for m in kept] == list(range(BATCH))
    assert len({m.headers["Nats-Batch-Id"] for m in kept}) == 1


async def test_few_events_are_published_singly(nc, outbox):
    put(outbox, range(3))
    outbox.start()
    kept = await stored(nc, 3)
    assert [int(m.data) for m in kept] == [0, 1, 2]
    assert not any("Nats-Batch-Id" in m.headers for m in kept)


async def test_a_batch_with_a_duplicate_adds_the_others(nc, outbox):
    await nc.jetstream().publish(f"{DECISION}.7", b"7", headers={"Nats-Msg-Id": "id-7"})
    put(outbox, range(BATCH))
    outbox.start()
    assert sorted(int(m.data) for m in await stored(nc, BATCH)) == list(range(BATCH))


async def test_without_its_stream_a_batch_waits_in_the_file(config, nc, outbox):
    js = nc.jetstream()
    stream = (await js.stream_info(DECISIONS_STREAM)).config
    await delete_stream(config, js, DECISIONS_STREAM)
    put(outbox, range(BATCH))
    outbox.start()
    await until(lambda: outbox._spill.count == BATCH)
    await js.add_stream(stream)
    assert [int(m.data) for m in await stored(nc, BATCH)] == list(range(BATCH))


async def test_closing_publishes_what_is_in_memory_and_in_the_file(nc, tmp_path):
    event = OutboxEvent(f"{DECISION}.0", "id-left", b"0")
    SpillFile(tmp_path, 1 << 20).append([event])
    box = Outbox(nc, tmp_path, max_events=1_000, max_bytes=1 << 20)
    put(box, range(1, BATCH))
    await box.close()
    assert box.depth == 0
    assert sorted(int(m.data) for m in await stored(nc, BATCH)) == list(range(BATCH))


async def test_the_events_of_a_process_that_has_ended_are_published_by_another(nc, tmp_path):
    left = [OutboxEvent(f"{DECISION}.0", f"id-{n}", b"%d" % n) for n in range(BATCH)]
    ended = tmp_path / "scorer-1"
    SpillFile(ended, 1 << 20).append(left)
    box = Outbox(nc, tmp_path / "scorer", max_events=1_000, max_bytes=1 << 20)
    with held(ended):  # its process runs
        assert await take_over(box, ended) == 0
    assert await take_over(box, ended) == BATCH
    assert (ended / "outbox.jsonl").read_bytes() == b""
    # Killed before the file was emptied, it is taken over again.
    SpillFile(ended, 1 << 20).append(left[:5])
    assert await take_over(box, ended) == 5
    await box.close()
    kept = await stored(nc, BATCH)
    assert [int(m.data) for m in kept] == list(range(BATCH))
    assert (await nc.jetstream().stream_info(DECISIONS_STREAM)).state.messages == BATCH
