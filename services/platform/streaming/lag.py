"""How far consumers are behind their streams, as a gauge."""

import asyncio
from contextlib import suppress

from nats.errors import Error as NatsError

from services.platform.streaming.consumer import OrderedConsumer
from services.platform.telemetry import LAG


async def report_lag(consumers: dict[str, OrderedConsumer]) -> None:
    """Update the lag gauges every two seconds. Runs until cancelled."""
    while True:
        for name, consumer in consumers.items():
            # While NATS is unavailable, the gauge keeps its last value.
            with suppress(NatsError, OSError, TimeoutError):
                LAG.labels(name).set(await consumer.lag())
        await asyncio.sleep(2.0)
