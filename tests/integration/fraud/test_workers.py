"""Feature worker and lake writer as processes, killed with -9 in the middle of the stream."""

import asyncio
import signal

import numpy as np
import pytest
from nats.js.errors import NotFoundError
from redis import Redis

from features.aggregation import backfill
from features.online import OnlineTable
from features.redis_connection import RedisLink
from services.fraud.features import worker as feature_worker
from services.fraud.features.states import STATES, contributions
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.events import (
    DEAD_STREAM,
    DECISIONS_STREAM,
    STREAM,
    Events,
    TransactionEvent,
)
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.simulator.gateway import happenings
from services.fraud.simulator.traffic import DAY_US, START_US, Traffic
from services.platform.storage.lake import Lake
from services.platform.storage.lake_writer import LINGER_S
from tests.integration.conftest import lag, publish, until

COUNT = 4_000


def live(count):
    """Events of the simulated world, transactions and labels mixed."""
    world = happenings(Traffic(3), START_US + 18 * DAY_US)
    events = [next(world).event for _ in range(count)]
    return [TransactionEvent(**dict(e)) if hasattr(e, "cart") else e for e in events]


async def publish_with_kills(nc, config, worker, module, consumer, delays):
    """Kill a worker, again and again, while it holds messages it has not acknowledged.

    Args:
        delays: For each kill, seconds between the delivery and the kill.
    """
    events = live(COUNT)
    seqs = []
    part = COUNT // len(delays)
    for number, delay in enumerate(delays):
        process = worker(module)
        until_now = seqs[-1] if seqs else 0
        seqs += await publish(nc, events[number * part : (number + 1) * part], config.shards)
        await until(lambda seq=until_now: delivered_beyond(nc, *consumer, seq))
        await asyncio.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    worker(module)
    return events[: len(seqs)], seqs


async def delivered_beyond(nc, stream, durable, seq):
    """Whether the worker was handed something it has not acknowledged, past a sequence."""
    try:
        info = await nc.jetstream().consumer_info(stream, durable)
    except NotFoundError:
        return False
    return info.num_ack_pending and info.delivered.stream_seq > seq


async def test_states_are_exact_after_kills(nc, config, worker):
    module = "services.fraud.features.worker"
    consumer = (STREAM, feature_worker.NAME)
    delays = (0.0, 0.005, 0.02, 0.05)
    events, seqs = await publish_with_kills(nc, config, worker, module, consumer, delays)
    await until(lambda: settled(nc, *consumer))
    expected = backfill(STATES, Events.of(events, seqs), contributions)
    with Redis.from_url(config.redis) as redis:
        for state in STATES:
            done = expected[state.name]
            found = OnlineTable(redis, state).load(done.keys)
            assert found.tobytes() == done.table.tobytes(), state.name


async def settled(nc, *consumer):
    return not await lag(nc, *consumer)


async def test_the_lake_holds_every_event_once_after_kills(nc, config, worker):
    module = "services.fraud.ingestion.lake_writer"
    consumer = (STREAM, lake_writer.NAME)
    # It lingers before it writes: killed while it gathers, and about when it writes.
    delays = (0.5, LINGER_S + 0.02, LINGER_S + 0.08)
    events, seqs = await publish_with_kills(nc, config, worker, module, consumer, delays)
    await until(lambda: settled(nc, *consumer), seconds=90)
    lake = Lake(config)
    transactions, labels = lake.read(TRANSACTIONS_TABLE), lake.read(LABELS_TABLE)
    found = np.sort(np.concatenate([transactions["seq"], labels["seq"]]))
    assert found.tolist() == seqs
    again = Events.from_tables(transactions, labels)
    sent = Events.of(events, seqs)
    assert again.time.tobytes() == sent.time.tobytes()
    assert again.amount.tobytes() == sent.amount.tobytes()
    assert np.array_equal(again.chargeback, sent.chargeback)


async def test_malformed_messages_are_put_aside_and_the_stream_moves_on(nc, config, worker):
    js = nc.jetstream()
    events = live(20)
    seqs = await publish(nc, events[:10], config.shards)
    for data in (b"{", b"", b"\xff\xfe", b'{"transaction_id": 5}', b"[" * 1_000):
        await js.publish("fraud.tx.0.0.0.0", data)
    await js.publish("fraud.decision.0", b'{"nonsense": true}')
    seqs += await publish(nc, events[10:], config.shards)
    worker("services.fraud.features.worker")
    worker("services.fraud.ingestion.lake_writer")
    await until(lambda: settled(nc, STREAM, feature_worker.NAME))
    await until(lambda: settled(nc, STREAM, lake_writer.NAME))
    await until(lambda: settled(nc, DECISIONS_STREAM, lake_writer.DECISIONS_NAME))
    assert (await js.stream_info(DEAD_STREAM)).state.messages == 5 + 5 + 1
    expected = backfill(STATES, Events.of(events, seqs), contributions)
    with Redis.from_url(config.redis) as redis:
        done = expected["customer_state"]
        assert OnlineTable(redis, done.state).load(done.keys).tobytes() == done.table.tobytes()
    rows = Lake(config).read(TRANSACTIONS_TABLE)
    assert len(rows) == sum(isinstance(e, TransactionEvent) for e in events)


@pytest.mark.parametrize("entity", ["merchant_id"])
async def test_shards_together_do_what_one_worker_does(nc, config, entity):
    """A worker a shard, each with its own subjects, in this process."""
    from services.fraud.ingestion.events import owned_subject
    from services.platform.streaming.consumer import OrderedConsumer, consume

    events = live(400)
    seqs = await publish(nc, events, config.shards)
    states = [s for s in STATES if s.shard == entity]
    consumers, tasks, redis = [], [], RedisLink(config.redis)
    for number in range(config.shards):
        name = f"features-{number}"
        consumer = OrderedConsumer(nc, STREAM, name, owned_subject(entity, number))
        made = feature_worker.FeatureWorker(nc.jetstream(), redis, states)
        consumers.append(name)
        tasks.append(asyncio.create_task(consume(consumer, made.handle)))
    for name in consumers:
        await until(lambda name=name: settled(nc, STREAM, name))
    for task in tasks:
        task.cancel()
    redis.close()
    expected = backfill(STATES, Events.of(events, seqs), contributions)
    with Redis.from_url(config.redis) as online:
        for state in states:
            done = expected[state.name]
            found = OnlineTable(online, state).load(done.keys)
            assert found.tobytes() == done.table.tobytes()
