"""Feature workers on a Redis Cluster whose nodes are killed: every row is exact in the end."""

import asyncio
import os

import pytest
from redis.exceptions import RedisError

from features.aggregation import backfill
from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from infra.local.engines import free_port
from services.designs import DESIGNS
from services.fraud.features.ownership.assignment import assign, read_assignment
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import STREAM
from services.platform.design import accounts
from tests.clusters import redis_cluster
from tests.identical import assert_identical
from tests.integration.conftest import lag, publish, until
from tests.integration.fraud.test_workers import live

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(config, monkeypatch):
    with redis_cluster(config, accounts(DESIGNS)) as (made, engines):
        monkeypatch.setitem(os.environ, "WHITEBOARD_REDIS_HOST", made.redis_host)
        yield made, engines


async def settled(nc, made):
    try:
        with open_redis(made) as redis:
            durables = read_assignment(redis).durables
    except RedisError:  # a node has just come back, or has not been replaced yet
        return False
    return not any([await lag(nc, STREAM, name) for name in durables])


async def publish_slowly(nc, made, events):
    seqs = []
    for begin in range(0, len(events), 50):
        seqs += await publish(nc, events[begin : begin + 50], made.shards)
        await asyncio.sleep(0.1)
    return seqs


def assert_exact(made, expected):
    with open_redis(made) as redis:
        for name, done in expected.items():
            assert_identical(OnlineTable(redis, done.state).load(done.keys), done.table, name)


async def test_rows_are_exact_after_nodes_were_killed(nc, cluster, worker):
    made, engines = cluster
    events = live(3_000)
    seqs = []
    with open_redis(made) as redis:
        await assign(nc.jetstream(), redis, 2, made.shards)
    for number in range(2):
        worker("fraud", "feature-worker", "--worker", str(number), port=free_port())
    seqs += await publish_slowly(nc, made, events[:500])
    await until(lambda: settled(nc, made), 60)
    # Without a replica: its entities wait, the others go on.
    engines.kill("redis-2")
    seqs += await publish_slowly(nc, made, events[500:1_500])
    expected = backfill(STATES, Events.of(events[:1_500], seqs))
    engines.start("redis-2")
    await until(lambda: settled(nc, made), 90)
    assert_exact(made, expected)
    # With a replica, which takes over.
    engines.kill("redis-1")
    seqs += await publish_slowly(nc, made, events[1_500:2_500])
    engines.start("redis-1")
    seqs += await publish_slowly(nc, made, events[2_500:])
    await until(lambda: settled(nc, made), 90)
    expected = backfill(STATES, Events.of(events, seqs))
    assert_exact(made, expected)
