"""The payment gateway's clock."""

import time
from itertools import islice

from services.fraud.simulator.gateway import Gateway, happenings
from services.fraud.simulator.traffic import START_US, Traffic

SLOW_S = 2.0


async def test_a_world_that_is_slow_to_make_delays_no_request(config, nc):
    def world():
        time.sleep(SLOW_S)
        yield from islice(happenings(Traffic(3), START_US), 20)

    gateway = Gateway(nc, config.scorer, config.shards)  # nobody scores: each ends at once
    report = await gateway.run(world(), 100, 20, lambda *_: None)
    assert report.failures == 20
    assert report.seconds < SLOW_S
