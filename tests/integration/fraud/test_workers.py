"""Feature worker and lake writer as processes that are killed with -9 in mid-stream."""

import asyncio
import signal

import numpy as np
import pytest
from nats.js.errors import NotFoundError
from redis import Redis

from features.aggregation import backfill
from features.online.table import OnlineTable
from services.fraud.features.ownership import assignment as feature_worker
from services.fraud.features.states import STATES
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import DEAD_STREAM, DECISIONS_STREAM, STREAM, TransactionEvent
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.gateway import simulated_events
from services.fraud.simulator.traffic import Traffic
from services.platform.storage.lake import Lake
from services.platform.storage.lake_writer import MAX_WAIT_S
from tests.identical import assert_identical
from tests.integration.conftest import lag, publish, until

pytestmark = pytest.mark.slow

COUNT = 4_000


def live(count):
    """Simulated events, transactions and labels mixed."""
    source = simulated_events(Traffic(3), START_US + 18 * DAY_US)
    events = [next(source).event for _ in range(count)]
    return [TransactionEvent(**dict(e)) if hasattr(e, "cart") else e for e in events]


async def publish_with_kills(nc, config, worker, name, consumer, delays):
    """Kill a worker repeatedly while it holds messages that it has not acknowledged.

    Args:
        delays: For each kill, seconds between the delivery and the kill.
    """
    events = live(COUNT)
    seqs = []
    part = COUNT // len(delays)
    for number, delay in enumerate(delays):
        process = worker("fraud", name)
        until_now = seqs[-1] if seqs else 0
        seqs += await publish(nc, events[number * part : (number + 1) * part], config.shards)
        await until(lambda seq=until_now: delivered_beyond(nc, *consumer, seq))
        await asyncio.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    worker("fraud", name)
    return events[: len(seqs)], seqs


async def delivered_beyond(nc, stream, durable, seq):
    """Whether the worker holds an unacknowledged message past a sequence, or has done them all."""
    try:
        info = await nc.jetstream().consumer_info(stream, durable)
    except NotFoundError:
        return False
    holds_or_done = info.num_ack_pending or not info.num_pending
    return holds_or_done and info.delivered.stream_seq > seq


async def test_states_are_exact_after_kills(nc, config, worker):
    name = "feature-worker"
    consumer = (STREAM, feature_worker.NAME)
    delays = (0.0, 0.005, 0.02, 0.05)
    events, seqs = await publish_with_kills(nc, config, worker, name, consumer, delays)
    await until(lambda: settled(nc, *consumer))
    expected = backfill(STATES, Events.of(events, seqs))
    with Redis.from_url(config.redis) as redis:
        for state in STATES:
            done = expected[state.name]
            found = OnlineTable(redis, state).load(done.keys)
            assert_identical(found, done.table, state.name)


async def settled(nc, *consumer):
    return not await lag(nc, *consumer)


async def test_the_lake_holds_every_event_once_after_kills(nc, config, worker):
    name = "lake-writer"
    consumer = (STREAM, lake_writer.NAME)
    # It waits for a fuller batch: killed while it waits, and about when it writes.
    delays = (0.5, MAX_WAIT_S + 0.02, MAX_WAIT_S + 0.08)
    events, seqs = await publish_with_kills(nc, config, worker, name, consumer, delays)
    await until(lambda: settled(nc, *consumer), seconds=90)
    lake = Lake(config)
    transactions, labels = lake.read(TRANSACTIONS_TABLE), lake.read(LABELS_TABLE)
    found = np.sort(np.concatenate([transactions["seq"], labels["seq"]]))
    assert found.tolist() == seqs
    again = Events.from_tables(transactions, labels)
    sent = Events.of(events, seqs)
    assert_identical(again.time, sent.time)
    assert_identical(again.amount, sent.amount)
    assert np.array_equal(again.chargeback, sent.chargeback)


async def test_malformed_messages_become_dead_letters_and_the_stream_goes_on(nc, config, worker):
    js = nc.jetstream()
    events = live(20)
    seqs = await publish(nc, events[:10], config.shards)
    for data in (b"{", b"", b"\xff\xfe", b'{"transaction_id": 5}', b"[" * 1_000):
        await js.publish("fraud.tx.0.0.0.0", data)
    await js.publish("fraud.decision.0", b'{"nonsense": true}')
    seqs += await publish(nc, events[10:], config.shards)
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    await until(lambda: settled(nc, STREAM, feature_worker.NAME))
    await until(lambda: settled(nc, STREAM, lake_writer.NAME))
    await until(lambda: settled(nc, DECISIONS_STREAM, lake_writer.DECISIONS_NAME))
    assert (await js.stream_info(DEAD_STREAM)).state.messages == 5 + 5 + 1
    expected = backfill(STATES, Events.of(events, seqs))
    with Redis.from_url(config.redis) as redis:
        done = expected["customer_state"]
        assert_identical(OnlineTable(redis, done.state).load(done.keys), done.table)
    rows = Lake(config).read(TRANSACTIONS_TABLE)
    assert len(rows) == sum(isinstance(e, TransactionEvent) for e in events)
