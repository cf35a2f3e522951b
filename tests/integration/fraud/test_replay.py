"""A replay into the real stream: every event once, whatever stops it and however often it runs."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.replay import LabelCounts
from services.fraud.ingestion.transaction_file import TransactionFile
from services.fraud.simulator.replay import AlreadyReplayed, ReplayRequest, replay
from services.fraud.simulator.replay_log import ReplayLog
from services.platform.runtime.tasks import cancel_tasks
from tests.integration.conftest import until
from tests.unit.fraud.replay_files import mapping, write_csv

ROWS = 40
NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path):
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(hours=6 * (n // 2)) for n in range(ROWS)]  # two of each time
    rows = [f"t{n},{time:%Y-%m-%d %H:%M:%S},c,m,1.50,{n % 2}" for n, time in enumerate(times)]
    return write_csv(tmp_path / "t.csv", rows)


async def send(config, path, run="", **options):
    """Replay without a scorer: each request fails at once, each event goes to the stream."""
    read_by = mapping().for_run(run) if run else mapping()
    request = ReplayRequest(**{"rate": 2_000.0, "max_transactions": 1_000, **options})
    with TransactionFile(path, read_by, now=NOW) as source:
        return await replay(config, source, request, LabelCounts(), lambda *_: None)


async def stored(nc):
    """Message ids in the stream, in order."""
    js = nc.jetstream()
    state = (await js.stream_info(STREAM)).state
    messages = [await js.get_msg(STREAM, n) for n in range(state.first_seq, state.last_seq + 1)]
    return [message.headers["Nats-Msg-Id"] for message in messages]


EVERYTHING = sorted(f"fraud.{kind}-t{n}" for kind in ("tx", "label") for n in range(ROWS))


async def test_a_file_is_replayed_once(config, nc, file):
    report = await send(config, file)
    assert (report.requests, report.labels, report.duplicates) == (ROWS, ROWS, 0)
    assert sorted(await stored(nc)) == EVERYTHING
    with pytest.raises(AlreadyReplayed, match="--run"):
        await send(config, file)
    assert (await send(config, file, resume=True)).requests == 0
    assert sorted(await stored(nc)) == EVERYTHING


async def test_another_run_is_a_data_set_of_its_own(config, nc, file):
    await send(config, file)
    report = await send(config, file, run="b")
    assert (report.requests, report.duplicates) == (ROWS, 0)
    body = orjson.loads((await nc.jetstream().get_last_msg(STREAM, "fraud.label.>")).data)
    assert body["customer_id"] == "b:c"


@pytest.mark.parametrize("most", [1, 2, 7, 39])
async def test_a_stopped_replay_goes_on(config, nc, file, most):
    await send(config, file, max_transactions=most)
    with pytest.raises(AlreadyReplayed, match="--resume"):
        await send(config, file)
    report = await send(config, file, resume=True)
    assert (report.requests, report.duplicates) == (ROWS - most, 0)
    assert sorted(await stored(nc)) == EVERYTHING


async def test_an_interrupted_replay_goes_on(config, nc, file):
    task = asyncio.create_task(send(config, file, rate=10.0))
    await until(lambda: stored(nc))
    await cancel_tasks(task)
    assert 0 < len(await stored(nc)) < len(EVERYTHING)
    report = await send(config, file, resume=True)
    assert report.duplicates == 0
    assert sorted(await stored(nc)) == EVERYTHING


async def test_a_killed_replay_sends_nothing_twice(config, nc, file, monkeypatch):
    with monkeypatch.context() as killed:
        # The record stays as it was before the first event.
        write = ReplayLog.write
        writes = []

        async def once(self, record):
            if not writes:
                writes.append(record)
                await write(self, record)

        killed.setattr(ReplayLog, "write", once)
        await send(config, file, max_transactions=11)
    report = await send(config, file, resume=True)
    assert report.duplicates == 0
    assert sorted(await stored(nc)) == EVERYTHING


async def test_a_grown_file_sends_its_new_rows(config, nc, file):
    await send(config, file)
    grown = file.with_name("grown.csv")
    grown.write_text(file.read_text() + "new,2024-02-01,c,m,1.50,0\n")
    with pytest.raises(AlreadyReplayed, match=r"\(in t\.csv\)"):
        await send(config, grown)
    report = await send(config, grown, resume=True)
    assert (report.requests, report.labels) == (1, 1)


async def test_other_transactions_with_the_same_ids_are_counted_not_lost_in_silence(
    config, nc, file
):
    await send(config, file)
    other = file.with_name("other.csv")
    other.write_text(file.read_text().replace(",c,m,", ",c2,m,"))
    report = await send(config, other)
    assert (report.requests, report.duplicates) == (ROWS, 2 * ROWS)


async def test_a_replay_that_sends_nothing_leaves_no_record(config, nc, tmp_path):
    path = write_csv(tmp_path / "t.csv", ["1,2024-01-01,a b,m,1,0"])
    assert (await send(config, path)).requests == 0
    assert (await send(config, path)).requests == 0
