"""Feature workers by shard: their number changes, and they are killed, while events arrive."""

import asyncio
import signal

import pytest
from redis import Redis
from redis.exceptions import WatchError

from features.aggregation import backfill
from features.online.row_store import Fence, RowStore, Superseded
from features.online.table import OnlineTable
from features.redis_connection import RedisConnection
from infra.local.engines import free_port
from services.fraud.features.ownership.assignment import Assignment, assign, read_assignment
from services.fraud.features.ownership.handover import (
    ASSIGNMENT,
    POSITIONS,
    RECORD,
    Offer,
    OnlineRecord,
    owner_field,
)
from services.fraud.features.states import CUSTOMER, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import DEAD_STREAM, STREAM
from tests.identical import assert_identical
from tests.integration.conftest import lag, publish, until
from tests.integration.fraud.test_workers import live

pytestmark = pytest.mark.slow

NAME = "feature-worker"


@pytest.fixture
def start(worker):
    """Starts feature worker N at a port of its own."""
    return lambda number=0: worker("fraud", NAME, "--worker", str(number), port=free_port())


@pytest.fixture
def redis(config):
    with Redis.from_url(config.redis) as connection:
        yield connection


async def settled(nc, redis):
    """Whether the workers of the present assignment have folded everything."""
    names = read_assignment(redis).durables
    return not any([await lag(nc, STREAM, name) for name in names])


def assert_equal_to_backfill(redis, events, seqs):
    expected = backfill(STATES, Events.of(events, seqs))
    for state in STATES:
        done = expected[state.name]
        table = OnlineTable(redis, state)
        assert_identical(table.load(done.keys), done.table, state.name)
        assert set(table.entities()) == set(done.keys)


async def test_states_are_exact_while_the_number_changes_and_workers_are_killed(
    nc, config, start, redis
):
    js, events, seqs = nc.jetstream(), live(3_000), []
    running = {n: start(n) for n in range(3)}

    async def send(part):
        """Publish a sixth of the events."""
        nonlocal seqs
        size = len(events) // 6
        seqs += await publish(nc, events[part * size : (part + 1) * size], config.shards)

    async def kill(number):
        running[number].send_signal(signal.SIGKILL)
        await asyncio.to_thread(running[number].wait, 10)
        running[number] = start(number)

    await send(0)
    await until(lambda: lag_is_known(nc, "features"), seconds=100)
    sending = asyncio.create_task(send(1))
    three = await assign(js, redis, 3, config.shards)
    await sending
    await kill(1)
    await send(2)
    sending = asyncio.create_task(send(3))
    await kill(2)
    two = await assign(js, redis, 2, config.shards)
    await sending
    await kill(0)
    await send(4)
    await assign(js, redis, 1, config.shards)
    await kill(0)
    await send(5)
    await until(lambda: settled(nc, redis), seconds=100)
    assert_equal_to_backfill(redis, events[: len(seqs)], seqs)
    assert three.epoch < two.epoch < read_assignment(redis).epoch
    assert (await js.stream_info(DEAD_STREAM)).state.messages == 0
    consumers = {one.name for one in await js.consumers_info(STREAM)}
    assert consumers == set(read_assignment(redis).durables)


async def lag_is_known(nc, durable):
    return await lag(nc, STREAM, durable) != 1


async def test_a_message_that_is_no_event_becomes_one_dead_letter(nc, config, start, redis):
    js = nc.jetstream()
    await assign(js, redis, 2, config.shards)
    await js.publish("fraud.tx.0.0.0.0", b"{")
    events = live(50)
    seqs = await publish(nc, events, config.shards)
    for number in range(2):
        start(number)
    await until(lambda: settled(nc, redis))
    assert (await js.stream_info(DEAD_STREAM)).state.messages == 1
    assert_equal_to_backfill(redis, events, seqs)


async def test_a_worker_that_hung_does_not_write_after_a_change(nc, config, redis):
    """It has read its rows; then the rows become another's, who folds; then it writes."""
    connection = RedisConnection(config.redis)
    redis.hset(RECORD, owner_field("features"), "a")
    holds = {ASSIGNMENT: None, owner_field("features"): b"a"}
    fence = Fence(RECORD, holds, (POSITIONS, "features"))
    store = RowStore(connection, [CUSTOMER], fence)
    keys = store.row_keys({CUSTOMER.name: [("c1",)]})
    rows = await store.read(keys)
    rows[CUSTOMER.name] = rows[CUSTOMER.name].copy()
    rows[CUSTOMER.name][0, 0] = 7.0
    await store.write(keys, rows)
    assert OnlineTable(redis, CUSTOMER).load([("c1",)])[0, 0] == 7.0

    rows = {CUSTOMER.name: (await store.read(keys))[CUSTOMER.name].copy()}
    rows[CUSTOMER.name][0, 0] = 8.0
    await assign(nc.jetstream(), redis, 2, config.shards)
    with pytest.raises(WatchError):
        await store.write(keys, rows)
    with pytest.raises(Superseded):
        await store.read(keys)
    # Nor on a connection that does not watch any more.
    redis.delete(RECORD)
    redis.hset(RECORD, owner_field("features"), "a")
    await store.read(keys)
    connection.close()
    await connection.execute([("PING",)])
    redis.hset(RECORD, owner_field("features"), "b")
    with pytest.raises(ConnectionError):
        await store.write(keys, rows)
    assert OnlineTable(redis, CUSTOMER).load([("c1",)])[0, 0] == 7.0
    connection.close()


def hashes_of(redis):
    return {key: redis.hgetall(key) for key in redis.scan_iter(count=1_000)}


def put_back(redis, hashes):
    """Leave what Redis has after it was killed before the newest writes were in its file."""
    with redis.pipeline() as pipe:
        for key in redis.scan_iter(count=1_000):
            pipe.delete(key)
        for key, fields in hashes.items():
            pipe.hset(key, mapping=fields)
        pipe.execute()


@pytest.mark.parametrize("meanwhile", ["runs", "killed", "reassigned"])
async def test_what_redis_has_lost_is_folded_again(nc, config, start, redis, meanwhile):
    """Killed while a flush of its file is slow, Redis loses writes that it acknowledged."""
    events = live(300)
    running = start()
    seqs = await publish(nc, events[:100], config.shards)
    await until(lambda: settled(nc, redis), seconds=100)
    kept = hashes_of(redis)
    seqs += await publish(nc, events[100:200], config.shards)
    await until(lambda: settled(nc, redis))
    if meanwhile == "killed":
        running.kill()
        await asyncio.to_thread(running.wait, 10)
    put_back(redis, kept)
    if meanwhile == "killed":
        start()
    if meanwhile == "reassigned":
        await assign(nc.jetstream(), redis, 2, config.shards)
        start(1)
    seqs += await publish(nc, events[200:], config.shards)
    await until(lambda: settled(nc, redis), seconds=100)
    assert_equal_to_backfill(redis, events, seqs)


async def test_a_second_process_of_one_number_ends_the_first(nc, config, start, redis):
    events = live(200)
    first = start()
    seqs = await publish(nc, events[:100], config.shards)
    await until(lambda: settled(nc, redis))
    second = start()
    await until(lambda: first.poll() is not None)
    seqs += await publish(nc, events[100:], config.shards)
    await until(lambda: settled(nc, redis))
    assert second.poll() is None
    assert_equal_to_backfill(redis, events, seqs)


async def test_the_number_does_not_change_before_rebuilt_rows_are_taken(nc, config, redis):
    js = nc.jetstream()
    hashes = {state.name: state.hash for state in STATES}
    record = OnlineRecord(redis)
    record.offer(Offer("7", 0, hashes))
    with pytest.raises(ValueError, match="features has not taken the rebuilt rows yet"):
        await assign(js, redis, 2, config.shards)
    record.take("features", Offer("7", 0, hashes), STATES)
    made = await assign(js, redis, 2, config.shards)
    found = record.read()
    assert [found[f"taken:{name}"] for name in made.durables] == ["7", "7"]
    assert "taken:features" not in found


@pytest.mark.parametrize("number", [0, 17])
async def test_more_workers_than_shards_are_refused(nc, config, redis, number):
    from services.fraud.features.ownership.assignment import assign_workers

    with pytest.raises(ValueError, match=r"choose 1 to 16, one per shard at most"):
        await asyncio.to_thread(assign_workers, config, number)
    assert read_assignment(redis) == Assignment()
