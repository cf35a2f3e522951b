"""The outbox's file: bounded, in order, and complete after a restart."""

import asyncio
import resource
from contextlib import contextmanager

import pytest
from nats.aio.client import Client

from services.platform.streaming.outbox import Outbox
from services.platform.streaming.spill_file import OutboxEvent, SpillFile


def event(number):
    return OutboxEvent("fraud.decision.0", f"id-{number}", b'{"n": %d}' % number)


def drain(spill):
    ids = []
    while spill.count:
        ids += [e.id for e in spill.peek(3)]
        spill.confirm()
    return ids


def test_order_survives_a_restart(tmp_path):
    SpillFile(tmp_path, 10_000).append([event(n) for n in range(5)])
    again = SpillFile(tmp_path, 10_000)
    assert again.count == 5
    again.append([event(5)])
    assert drain(again) == [f"id-{n}" for n in range(6)]
    assert SpillFile(tmp_path, 10_000).count == 0


def test_it_is_bounded_and_counts_what_did_not_fit(tmp_path):
    spill = SpillFile(tmp_path, 200)
    dropped = spill.append([event(n) for n in range(50)])
    assert 0 < dropped < 50
    assert spill.count == 50 - dropped
    assert (tmp_path / "outbox.jsonl").stat().st_size <= 200


def test_a_truncated_last_line_is_skipped(tmp_path):
    SpillFile(tmp_path, 10_000).append([event(1), event(2)])
    with (tmp_path / "outbox.jsonl").open("ab") as file:
        file.write(b'["fraud.decision.0", "id-3", "{')
    assert drain(SpillFile(tmp_path, 10_000)) == ["id-1", "id-2"]


def test_events_appended_while_reading_are_kept(tmp_path):
    spill = SpillFile(tmp_path, 10_000)
    spill.append([event(1), event(2)])
    assert [e.id for e in spill.peek(10)] == ["id-1", "id-2"]
    spill.append([event(3)])
    spill.confirm()
    assert spill.count == 1
    assert drain(spill) == ["id-3"]


def test_what_is_not_confirmed_comes_again(tmp_path):
    spill = SpillFile(tmp_path, 10_000)
    spill.append([event(n) for n in range(4)])
    spill.peek(2)
    spill.confirm()
    assert [e.id for e in spill.peek(2)] == [e.id for e in spill.peek(2)] == ["id-2", "id-3"]


def test_an_event_after_a_truncated_line_is_published(tmp_path):
    SpillFile(tmp_path, 10_000).append([event(1), event(2)])
    with (tmp_path / "outbox.jsonl").open("ab") as file:
        file.write(b'["fraud.decision.0", "id-3", "{')
    again = SpillFile(tmp_path, 10_000)
    again.append([event(4)])
    assert again.count == 3
    assert drain(again) == ["id-1", "id-2", "id-4"]
    assert (tmp_path / "outbox.jsonl").read_bytes() == b""


def test_a_write_that_fails_halfway_leaves_the_file_as_it_was(tmp_path, file_limit):
    spill = SpillFile(tmp_path, 10_000)
    spill.append([event(1)])
    size = (tmp_path / "outbox.jsonl").stat().st_size
    with file_limit(size + 10), pytest.raises(OSError, match="File too large"):
        spill.append([event(2)])
    assert spill.count == 1
    spill.append([event(3)])
    assert drain(spill) == ["id-1", "id-3"]


async def test_while_the_file_cannot_be_written_the_newest_events_stay_in_memory(
    tmp_path, file_limit, caplog
):
    box = Outbox(Client(), tmp_path, max_events=2, max_bytes=10_000)  # connected to nothing
    box.start()
    with file_limit(0):
        for number in range(5):
            box.put("fraud.decision.0", f"id-{number}", b"{}")
        assert (box.dropped, box.depth) == (3, 2)
        await asyncio.sleep(0.2)  # it tries to empty the memory
        assert (box.dropped, box.depth) == (3, 2)
        assert len([r for r in caplog.records if "can't be written" in r.message]) == 1
    await until_it_holds(lambda: box.spilled == 2)
    box.put("fraud.decision.0", "id-5", b"{}")
    await box.close()
    assert drain(SpillFile(tmp_path, 10_000)) == ["id-3", "id-4", "id-5"]


async def until_it_holds(done):
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.02)


@pytest.fixture
def file_limit():
    """A limit to the size of files, as a full disk."""

    @contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
