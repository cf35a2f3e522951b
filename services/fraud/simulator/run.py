"""Play the simulated world into the running stack."""

import asyncio
import contextlib
from collections.abc import Iterable

from services.fraud.simulator.drift import Drift
from services.fraud.simulator.gateway import Gateway, Happening, Report, WorldState, happenings
from services.fraud.simulator.traffic import START_US, Traffic
from services.platform.progress import Step
from services.platform.settings import Settings
from services.platform.streaming.consumer import connect


async def play(
    config: Settings,
    seed: int,
    rate: float,
    seconds: float,
    step: Step,
    drift: Drift | None = None,
) -> Report:
    """Simulate live traffic for some seconds, from where it last stopped.

    Args:
        drift: How the world is from now on; None to leave it as it is.

    Raises:
        ConnectionError: NATS does not answer.
    """
    nc = await connect(config, "simulator")
    state = await WorldState.open(nc.jetstream(), START_US)
    if drift is not None:
        await state.change(drift)
    keeping = asyncio.create_task(state.keep())
    try:
        gateway = Gateway(nc, config.scorer, config.shards)
        world = happenings(Traffic(seed, state.schedule), state.at_us)
        report = await gateway.run(world, rate, round(rate * seconds), step, state.reach)
        keeping.cancel()
        await state.store()
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
