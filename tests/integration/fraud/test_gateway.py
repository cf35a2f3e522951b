"""The payment gateway's open loop."""

import time
from itertools import islice

from services.fraud.service import SCORER
from services.fraud.simulator.day import START_US
from services.fraud.simulator.gateway import Gateway, simulated_events
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
