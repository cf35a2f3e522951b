"""The payment gateway's open loop."""

import asyncio
import time
from itertools import islice

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from services.fraud.ingestion.events import STREAM
from services.fraud.service import SCORER
from services.fraud.simulator.day import START_US
from services.fraud.simulator.gateway import Gateway, TrafficReport, simulated_events
from services.fraud.simulator.traffic import Traffic

SLOW_S = 2.0


async def test_slow_simulation_of_the_first_day_does_not_count_as_latency(config, nc):
    def events():
        time.sleep(SLOW_S)
        yield from islice(simulated_events(Traffic(3), START_US), 20)

    gateway = Gateway(nc, SCORER.url(config), config.shards)  # no scorer: requests fail at once
    report = await gateway.run(events(), 100, 20, lambda *_: None)
    assert report.failures == 20
    assert report.seconds < SLOW_S


async def test_a_run_that_is_cancelled_publishes_and_reports_what_it_sent(config, nc):
    """So does Ctrl-C."""
    report, under_way = TrafficReport(), asyncio.Event()
    gateway = Gateway(nc, SCORER.url(config), config.shards, report=report)
    events = simulated_events(Traffic(3), START_US)

    def step(sent, _):
        if sent == 10:
            under_way.set()

    traffic = asyncio.create_task(gateway.run(events, 100, 10_000, step))
    await under_way.wait()
    traffic.cancel()
    with pytest.raises(asyncio.CancelledError):
        await traffic
    assert report.failures >= 10
    assert report.seconds > 0.0
    sent = (await nc.jetstream().stream_info(STREAM)).state.messages
    assert sent == report.failures + report.labels


async def test_events_wait_while_nats_is_away(config, nc, monkeypatch):
    """The client would keep each request that it could not send: gigabytes in minutes."""
    sent, publish = [], JetStreamContext.publish

    async def counted(*arguments, **named):
        sent.append(1)
        return await publish(*arguments, **named)

    monkeypatch.setattr(JetStreamContext, "publish", counted)
    gateway = Gateway(nc, SCORER.url(config), config.shards)
    with monkeypatch.context() as away:
        away.setattr(Client, "is_connected", property(lambda _: False))
        events = simulated_events(Traffic(3), START_US)
        traffic = asyncio.create_task(gateway.run(events, 100, 20, lambda *_: None))
        await asyncio.sleep(1.0)
        assert sent == []
    await traffic
    assert (await nc.jetstream().stream_info(STREAM)).state.messages == 20
