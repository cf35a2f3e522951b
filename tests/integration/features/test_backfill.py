"""`whiteboard backfill` without Spark: the embedded engine, and what a comparison prevents."""

import asyncio
from contextlib import nullcontext

import pytest
from redis import Redis

from services.fraud.features.lake_fold import fold_here
from services.fraud.features.ownership.handover import OFFERS_FOLDER, OnlineRecord, pending
from services.fraud.features.spark import run
from services.fraud.features.states import IP, STATES
from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.tables import TRANSACTIONS_TABLE
from services.fraud.simulator.bootstrap import create_streams
from services.platform.storage.lake import Lake
from tests.streams import delete_stream

COUNT = 1_500


def no_bar(_):
    return nullcontext(lambda *_: None)


@pytest.fixture
async def lake(config, nc, simulated):
    """A part of the simulated days, and a stream that begins behind it."""
    rows = simulated.transactions.slice(0, COUNT)
    await delete_stream(config, nc.jetstream(), STREAM)
    await create_streams(nc.jetstream(), rows["seq"][-1].as_py())
    made = Lake(config)
    made.write(TRANSACTIONS_TABLE, rows, "history-0")
    return made


def offered(config):
    with Redis.from_url(config.redis) as redis:
        return pending(OnlineRecord(redis).read(), STATES)


async def test_rows_are_compared_and_offered(config, lake):
    found = await asyncio.to_thread(run.backfill, config, None, True, False, no_bar)
    assert (found.engine, found.events, found.mismatches) == ("embedded", COUNT, 0)
    assert found.compared.entities == sum(found.entities.values())
    assert found.peak_mb > 50
    assert found.as_json()["mismatches"] == 0
    offer = offered(config)
    assert len(lake.files(OFFERS_FOLDER)) == len(lake.files(offer.folder)) == len(STATES)


async def test_rows_that_differ_are_not_offered(config, lake, monkeypatch):
    def spoiled(lake, last_seq, bar):
        folded = fold_here(lake, last_seq, bar)
        lake.filesystem.delete_file(lake.files(folded.offer.table(IP))[0])
        return folded

    monkeypatch.setattr(run, "fold_here", spoiled)
    found = await asyncio.to_thread(run.backfill, config, None, True, False, no_bar)
    assert found.mismatches == found.entities[IP.name] > 0
    assert offered(config) is None
    assert lake.files(OFFERS_FOLDER) == []
    unchecked = await asyncio.to_thread(run.backfill, config, None, False, False, no_bar)
    assert (unchecked.mismatches, unchecked.compared) == (None, None)
