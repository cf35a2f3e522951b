"""Play the simulated world into the running stack."""

import asyncio
import contextlib
from collections.abc import Iterable

from services.fraud.simulator.gateway import Cursor, Gateway, Happening, Report, happenings
from services.fraud.simulator.traffic import START_US, Traffic
from services.skeleton.progress import Step
from services.skeleton.settings import Settings
from services.skeleton.stream import connect


async def play(
    config: Settings, traffic: Traffic, rate: float, seconds: float, step: Step
) -> Report:
    """Simulate live traffic for some seconds, from where it last stopped.

    Raises:
        ConnectionError: NATS does not answer.
    """
    nc = await connect(config, "simulator")
    cursor = await Cursor.open(nc.jetstream(), START_US)
    keeping = asyncio.create_task(cursor.keep())
    try:
        gateway = Gateway(nc, config.scorer, config.shards)
        world = happenings(traffic, cursor.at_us)
        report = await gateway.run(world, rate, round(rate * seconds), step, cursor.reach)
        keeping.cancel()
        await cursor.store()
        return report
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await nc.close()


async def replay(
    config: Settings, world: Iterable[Happening], rate: float, most: int, step: Step
) -> Report:
    """Send happenings of another source through the same path."""
    nc = await connect(config, "replay")
    try:
        return await Gateway(nc, config.scorer, config.shards).run(world, rate, most, step)
    finally:
        await nc.close()
