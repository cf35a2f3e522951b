"""Fraud detection on clusters of its engines, with nodes killed under traffic.

Three NATS servers with three copies of each stream, a Redis Cluster of three masters of which one
has a replica, SeaweedFS with two volume servers. After each kill: no request failed, no event was
lost or doubled, no decision differs from its recomputation, and everything mends by itself.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pyarrow.fs import S3FileSystem

from features.aggregation import backfill
from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from infra.local.clusters import form_redis, nats_nodes, redis_nodes, store_nodes
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import DECISIONS_STREAM, STREAM
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE, TRANSACTIONS_TABLE
from services.platform.design import accounts
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from tests.clusters import Engines
from tests.conftest import consecutive_ports, wait_for_port
from tests.e2e.cluster_designs import DESIGNS
from tests.e2e.test_demo import Installation
from tests.identical import assert_identical

pytestmark = pytest.mark.e2e

RATE = float(os.environ.get("CLUSTER_RATE", "20"))
SECONDS = float(os.environ.get("CLUSTER_SECONDS", "40"))
# In the middle of a run a node is killed; this much later it is started again.
AWAY_S = 12.0
# Half of the answers are in the decision's budget, or take three times as long as before a kill at
# most: a test machine that runs everything may be slow.
BUDGET_MS = 50.0


class Clusters:
    """An installation on clusters of engines."""

    def __init__(self, home: Path) -> None:
        self.here = Installation(home)
        first = consecutive_ports(3 * 3 + 4 + 5)
        nats = [(first + 3 * n, first + 3 * n + 1, first + 3 * n + 2) for n in range(3)]
        redis = [first + 9 + n for n in range(4)]
        store = [first + 13 + n for n in range(4)]
        s3 = first + 17
        self.here.env |= {
            "WHITEBOARD_DESIGNS": "tests.e2e.cluster_designs",
            "WHITEBOARD_NATS_HOST": ",".join(f"127.0.0.1:{ports[0]}" for ports in nats),
            "WHITEBOARD_NATS_HTTP_PORT": str(nats[0][1]),
            "WHITEBOARD_NATS_REPLICAS": "3",
            "WHITEBOARD_REDIS_HOST": ",".join(f"127.0.0.1:{port}" for port in redis[:3]),
            "WHITEBOARD_S3_PORT": str(s3),
            "WHITEBOARD_S3_ENDPOINT": f"http://127.0.0.1:{s3}",
        }
        self.config = self.here.settings()
        services = accounts(DESIGNS)
        programs = [
            *nats_nodes(self.config, nats, services),
            *redis_nodes(self.config, redis, services),
            *store_nodes(self.config, store, services),
        ]
        self.engines = Engines(programs, home)
        self.calm: dict = {}
        form_redis(self.config, redis[:3], {redis[3]: redis[0]})
        wait_for_port(s3)
        _make_bucket(self.config)

    def close(self) -> None:
        self.here.finished(["down"], 120)
        self.engines.stop()

    def run_and_kill(self, name: str, checks: Callable[[], None] | None = None) -> dict:
        """Send transactions, kill a node and start it again in the middle. The run's figures."""
        running = self.here.flowing(
            "simulate", "fraud", "--rate", str(RATE), "--seconds", str(SECONDS), "--json"
        )
        time.sleep(3)
        self.engines.kill(name)
        time.sleep(AWAY_S)
        if checks is not None:
            checks()
        self.engines.start(name)
        out, _ = running.communicate(timeout=600)
        assert running.returncode == 0
        print(name, out)
        return json.loads(out)

    def calm_run(self, seconds: float) -> dict:
        """Send transactions while every node is there. The run's figures."""
        options = ("--rate", str(RATE), "--seconds", str(seconds))
        found = self.here.figures("simulate", "fraud", *options)
        print("calm", found)
        return found

    def audit(self) -> dict:
        """The audit, once the lake and the rows have every event."""
        asyncio.run(_until_drained(self.config))
        done = self.here.finished(["audit", "fraud", "--json"], 600)
        assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
        print("audit", done.stdout)
        return json.loads(done.stdout)

    async def leader(self) -> str:
        """The server that leads the stream of events."""
        nc = await connect(self.config, "test")
        try:
            info = await nc.jetstream().stream_info(STREAM)
            assert info.cluster is not None
            assert info.config.num_replicas == 3
            return str(info.cluster.leader)
        finally:
            await nc.close()


def _make_bucket(config: Settings) -> None:
    end = time.monotonic() + 60
    store = S3FileSystem(
        access_key=config.user,
        secret_key=config.plain_password,
        endpoint_override=f"127.0.0.1:{config.s3_port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    while True:
        try:
            for bucket in (config.bucket, config.inbox, config.results):
                store.create_dir(bucket)
            Lake(config).put("ready", b"x")
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


async def _until_drained(config: Settings) -> None:
    """Wait until no consumer of events and decisions is behind."""
    nc = await connect(config, "test")
    js = nc.jetstream()
    wanted = [(STREAM, "features"), (STREAM, "lake"), (DECISIONS_STREAM, "lake-decisions")]
    end = time.monotonic() + 180
    try:
        while True:
            behind = {}
            for stream in (STREAM, DECISIONS_STREAM):
                for info in await js.consumers_info(stream):
                    behind[stream, info.name] = (info.num_pending or 0) + (
                        info.num_ack_pending or 0
                    )
            if behind and not any(behind.values()):
                return
            assert time.monotonic() < end, (behind, wanted)
            await asyncio.sleep(1)
    finally:
        await nc.close()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    with ExitStack() as stack:
        made = Clusters(tmp_path_factory.mktemp("clusters"))
        stack.callback(made.close)
        for _ in range(3):  # a service may be slow to start beside so many engines
            done = made.here.finished(["up", "--days", "40"], 600)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr[-3_000:]
        made.calm = made.calm_run(20)
        yield made


def check(found: dict, audit: dict, calm: dict) -> None:
    assert found["failures"] == 0, found
    assert found["requests"] == RATE * SECONDS
    assert found["p50_ms"] < max(BUDGET_MS, 3 * calm["p50_ms"])
    assert audit["mismatches"] == audit["gaps"] == 0, audit


def decisions(config: Settings) -> int:
    rows = Lake(config).read(DECISIONS_TABLE, ["transaction_id"])
    assert rows is not None
    assert rows.num_rows == pc.count_distinct(rows["transaction_id"]).as_py()
    return rows.num_rows


def test_a_nats_server_is_killed(clusters):
    before = clusters.audit()["vectors"]
    found = clusters.run_and_kill(asyncio.run(clusters.leader()))
    audit = clusters.audit()
    check(found, audit, clusters.calm)
    assert audit["vectors"] - before == found["requests"]


@pytest.mark.parametrize("name", ["redis-1", "redis-2"], ids=["replicated", "alone"])
def test_a_redis_master_is_killed(clusters, name):
    found = clusters.run_and_kill(name)
    audit = clusters.audit()
    check(found, audit, clusters.calm)
    assert found["degraded"] < found["requests"] * 0.6
    calm = clusters.calm_run(10)
    # A busy machine may be too late for a single read.
    assert calm["failures"] == 0
    assert calm["degraded"] <= 0.05 * calm["requests"]


def test_a_volume_server_is_killed(clusters):
    found = clusters.run_and_kill("store-volume-1")
    audit = clusters.audit()
    check(found, audit, clusters.calm)


def test_every_row_is_the_fold_of_the_lakes_events(clusters):
    config = clusters.config
    asyncio.run(_until_drained(config))
    lake = Lake(config)
    transactions, labels = lake.read(TRANSACTIONS_TABLE), lake.read(LABELS_TABLE)
    states = backfill(STATES, Events.from_tables(transactions, labels))
    with open_redis(config) as redis:
        for done in states.values():
            found = OnlineTable(redis, done.state).load(done.keys)
            assert_identical(found, done.table)
    assert decisions(config) == clusters.audit()["vectors"]
