"""Rebuilding the online store: under traffic, killed with -9, after Redis was lost, on upgrade."""

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import suppress

import numpy as np
import orjson
import pyarrow.compute as pc
import pytest
from redis import Redis

from features.aggregation import backfill
from features.online.layout import RowLayout
from features.online.table import OnlineTable
from features.state_log import log_folder
from infra.local.engines import environment
from services.fraud.evaluation.run_report import wait_until_processed
from services.fraud.features.backfill import backfill_states, write_states
from services.fraud.features.decisions import read_decisions
from services.fraud.features.ownership import assignment as feature_worker
from services.fraud.features.ownership.handover import RECORD, OnlineRecord
from services.fraud.features.rebuild import incomplete, rebuild, unfinished
from services.fraud.features.states import CUSTOMER, FEATURE_SET, FEATURES, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.tables import LABELS_TABLE, STATE_LOG, TRANSACTIONS_TABLE
from services.fraud.monitoring.skew import audit
from services.fraud.service import SCORER
from services.fraud.simulator.bootstrap import create_streams
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.gateway import Gateway, simulated_events
from services.fraud.simulator.traffic import Traffic
from services.platform.models.names import CHAMPION
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from tests.conftest import wait_for_port
from tests.docs_features import PATH, ROOT, patched
from tests.identical import assert_identical
from tests.integration.conftest import empty, lag, publish, until
from tests.integration.fraud.test_workers import live
from tests.streams import delete_stream

pytestmark = pytest.mark.slow

BEGIN_US = START_US + 20 * DAY_US
PACKAGES = ("features", "infra", "loadtest", "monitoring", "services")


def quiet(_):
    """A progress bar that shows nothing."""
    from contextlib import nullcontext

    return nullcontext(lambda *_: None)


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The packages with the feature and the measure of docs/features.md."""
    folder = tmp_path_factory.mktemp("changed")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package)
    (folder / PATH).write_text(patched((folder / PATH).read_text()))
    return folder


@pytest.fixture
def process(config):
    """Starts `python -m MODULE ...` in a folder; ends what still runs."""
    running = []
    log = (config.home / "changed.log").open("ab")

    def begin(folder, *arguments, out=log):
        command = [sys.executable, "-m", *arguments]
        running.append(
            subprocess.Popen(command, stdout=out, stderr=log, cwd=folder, env=environment())
        )
        return running[-1]

    yield begin
    for one in running:
        with suppress(ProcessLookupError):
            one.kill()
        one.wait(10)
    log.close()


async def output_of(process, folder, *arguments):
    """What a command prints, as JSON."""
    running = process(folder, "services.cli.main", *arguments, "--json", out=subprocess.PIPE)
    out, _ = await asyncio.to_thread(running.communicate)
    assert running.returncode == 0, out
    return json.loads(out)


async def play(config, nc, begin_us, count):
    gateway = Gateway(nc, SCORER.url(config), config.shards)
    report = await gateway.run(simulated_events(Traffic(3), begin_us), 250, count, lambda *_: None)
    assert report.failures == 0
    return report


def rows_equal_a_fold(config, states=STATES):
    """Whether the online store holds what all events of the lake fold to, and nothing else."""
    lake = Lake(config)
    events = Events.from_tables(lake.read(TRANSACTIONS_TABLE), lake.read(LABELS_TABLE))
    expected = backfill(STATES, events)
    with Redis.from_url(config.redis) as redis:
        for state in states:
            table, done = OnlineTable(redis, state), expected[state.name]
            assert_identical(table.load(done.keys), done.table, state.name)
            assert set(table.entities()) == set(done.keys)
    return len(events)


async def settled(nc):
    return not await lag(nc, STREAM, feature_worker.NAME)


def replace_process(old, process, folder, name):
    old.kill()
    old.wait(10)
    return process(folder, "services.platform.run", "fraud", name)


async def test_a_feature_and_a_measure_are_added_while_it_runs(
    config, nc, worker, process, onnx, changed
):
    """No wipe: the old champion goes on scoring, and the audit is clean before and after."""
    lake = Lake(config)
    put_served(config, onnx, "fraud", CHAMPION, 1)
    features, scorer = worker("fraud", "feature-worker"), worker("fraud", "scorer")
    worker("fraud", "lake-writer")
    await asyncio.to_thread(wait_for_port, SCORER.port(config))
    await play(config, nc, BEGIN_US, 300)
    assert await wait_until_processed(config)
    before = audit(lake)
    assert (before.vectors, before.mismatches, before.other_set) == (300, 0, 0)

    features = replace_process(features, process, changed, "feature-worker")
    replace_process(scorer, process, changed, "scorer")
    await asyncio.to_thread(wait_for_port, SCORER.port(config))
    await play(config, nc, BEGIN_US + DAY_US, 200)

    # Rebuild under traffic; the command is killed at its work, and the worker when it begins to
    # take the rows over.
    killed = process(changed, "services.cli.main", "rebuild", "fraud")
    await asyncio.sleep(2.0)
    killed.kill()
    playing = asyncio.create_task(play(config, nc, BEGIN_US + 2 * DAY_US, 1_500))
    rebuilding = asyncio.create_task(output_of(process, changed, "rebuild", "fraud"))
    with Redis.from_url(config.redis) as redis:
        await until(lambda: redis.hexists(RECORD, "offer"))
    await asyncio.sleep(0.7)
    features = replace_process(features, process, changed, "feature-worker")
    rebuilt = await rebuilding
    await playing
    assert set(rebuilt) == {"events", "entities", "seconds", "feature_set"}
    assert rebuilt["events"] >= 300
    assert set(rebuilt["entities"]) == {state.name for state in STATES}
    await play(config, nc, BEGIN_US + 5 * DAY_US, 200)
    assert await wait_until_processed(config)

    after = await output_of(process, changed, "audit", "fraud")
    assert (after["mismatches"], after["gaps"], after["other_set"]) == (0, 0, 300)
    assert after["vectors"] == 200 + 1_500 + 200
    rows = read_decisions(lake)
    assert set(rows["model"].to_pylist()) == {"xgboost:1"}
    assert rows["feature_set"].to_pylist()[0] == FEATURE_SET.hash
    assert rows["feature_set"].to_pylist()[-1] == rebuilt["feature_set"] != FEATURE_SET.hash
    assert None not in merchant_seqs(rows.slice(0, 300))
    # Between restart and rebuild: rows of another set are not read; some merchants have none yet.
    assert {None} <= merchant_seqs(rows.slice(300, 200)) <= {None, 0}
    assert None not in merchant_seqs(rows.slice(len(rows) - 200))
    assert {len(v) for v in rows["features"].to_pylist()[-200:]} == {len(FEATURES) + 1}
    rows_equal_a_fold(config, [state for state in STATES if state.name != "merchant_state"])
    assert len(lake.files(f"{STATE_LOG}/{log_folder(CUSTOMER)}")) == 1
    assert not lake.files(f"{STATE_LOG}/merchant_state")  # that of the declaration before


def merchant_seqs(decisions):
    """The logged sequences of the merchants' rows, without degraded decisions."""
    kept = decisions.filter(pc.invert(decisions["degraded"]))
    assert len(kept)
    return {dict(pairs)["merchant_state"] for pairs in kept["seqs"].to_pylist()}


async def test_a_lost_store_is_rebuilt_while_events_arrive(config, nc, worker):
    """The worker leaves the rows alone until then, whether it was running or not."""
    events = live(3_000)
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    await publish(nc, events[:1_000], config.shards)
    await until(lambda: settled(nc))
    with Redis.from_url(config.redis) as redis:
        empty(redis)
    assert await asyncio.to_thread(incomplete, config) == [state.name for state in STATES]
    await publish(nc, events[1_000:2_000], config.shards)
    done = asyncio.create_task(asyncio.to_thread(rebuild, config, quiet))
    await publish(nc, events[2_000:], config.shards)
    found = await done
    assert await asyncio.to_thread(incomplete, config) == []
    assert found.feature_set == FEATURE_SET.hash
    assert await wait_lake(config, nc, 3_000)
    await until(lambda: settled(nc))
    assert rows_equal_a_fold(config) == 3_000


async def wait_lake(config, nc, count):
    await until(lambda: lag_is_zero(nc))
    lake = Lake(config)
    return len(lake.read(TRANSACTIONS_TABLE)) + len(lake.read(LABELS_TABLE)) == count


async def lag_is_zero(nc):
    return not await lag(nc, STREAM, "lake")


async def upgraded(config, nc, simulated, without_hash):
    """A home whose backfill was written without a record, its rows with or without hashes."""
    await delete_stream(config, nc.jetstream(), STREAM)
    await create_streams(nc.jetstream(), simulated.last_seq)
    lake = Lake(config)
    lake.write(TRANSACTIONS_TABLE, simulated.transactions, "history-0")
    lake.write(LABELS_TABLE, simulated.labels, "history-0")
    with Redis.from_url(config.redis) as redis:
        for state in STATES:
            done, layout = simulated.states[state.name], RowLayout.of(state)
            end = layout.end if without_hash else None
            for key, value in zip(done.keys, layout.values(done.table), strict=True):
                redis.hset(layout.key(key), layout.field, value[:end])


@pytest.fixture(scope="module")
def small(simulated):
    """The last part of the simulated data set as a data set of its own."""

    class Small:
        transactions = simulated.transactions.slice(0, 1_500)
        labels = simulated.labels.slice(0, 0)

    Small.last_seq = Small.transactions["seq"][-1].as_py()
    Small.events = Events.from_tables(Small.transactions, Small.labels)
    Small.states = backfill_states(Small.events)
    return Small


async def test_a_home_from_before_comes_up_without_a_rebuild(config, nc, worker, small):
    await upgraded(config, nc, small, without_hash=True)
    assert await asyncio.to_thread(incomplete, config) == []
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    await publish(nc, live(300), config.shards)
    await until(lambda: settled(nc))
    await until(lambda: lag_is_zero(nc))
    assert rows_equal_a_fold(config) == len(small.events) + 300


async def test_rows_without_a_record_are_not_trusted_and_the_offer_waits(config, nc, worker, small):
    """A rebuild without a worker, as by `up`: the worker takes the rows over when it starts."""
    await upgraded(config, nc, small, without_hash=False)
    assert await asyncio.to_thread(incomplete, config) == [state.name for state in STATES]
    with Redis.from_url(config.redis) as redis:
        OnlineTable(redis, CUSTOMER).store([("gone",)], np.full((1, CUSTOMER.width), 7.0))
    found = await asyncio.to_thread(rebuild, config, quiet, wait=False)
    assert found.entities["customer_state"] == len(small.states["customer_state"].keys)
    assert await asyncio.to_thread(incomplete, config) == []
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    await publish(nc, live(300), config.shards)
    await until(lambda: settled(nc))
    await until(lambda: lag_is_zero(nc))
    assert rows_equal_a_fold(config) == len(small.events) + 300


async def test_the_state_log_of_a_rebuild_is_that_of_the_backfill(config, nc, small, monkeypatch):
    from services.fraud.features import lake_fold as module

    await upgraded(config, nc, small, without_hash=True)
    lake = Lake(config)
    write_states(lake, small.events, small.states, 0.0)
    expected = {state.name: log_rows(lake, state) for state in STATES}
    monkeypatch.setattr(module, "WARM_UP_DAYS", 0)
    monkeypatch.setattr(module, "_CHUNK", 400)
    await asyncio.to_thread(rebuild, config, quiet, wait=False)
    for state in STATES:
        assert log_rows(lake, state) == expected[state.name]
        assert len(lake.files(f"{STATE_LOG}/{log_folder(state)}")) > 1


def log_rows(lake, state):
    table = lake.read(f"{STATE_LOG}/{log_folder(state)}")
    return [orjson.dumps(row, default=str) for row in table.to_pylist()]


def test_an_offer_of_another_set_is_not_taken(config):
    from dataclasses import replace

    from services.fraud.features.ownership.handover import Offer, pending

    with Redis.from_url(config.redis) as redis:
        record = OnlineRecord(redis)
        record.reset(STATES)
        offer = Offer("x", 5, {state.name: state.hash for state in STATES})
        record.offer(offer)
        assert pending(record.read(), STATES, "features") == offer
        other = [replace(STATES[0], measures=STATES[0].measures[:1]), *STATES[1:]]
        assert pending(record.read(), other, "features") is None
        assert unfinished(config) == []
        redis.hset(RECORD, "state:ip_state", "another")
        assert unfinished(config) == []  # the offer is there
        redis.hdel(RECORD, "offer")
        assert unfinished(config) == ["ip_state"]
        record.offer(offer)
        record.take("features", offer, STATES)
        assert pending(record.read(), STATES, "features") is None
        assert pending(record.read(), STATES, "features-merchant_id-3") == offer
        redis.delete(RECORD)
