"""Send simulated traffic to the running stack."""

import asyncio
import contextlib

from services.fraud.service import SCORER
from services.fraud.simulator.day import START_US
from services.fraud.simulator.drift import Drift
from services.fraud.simulator.gateway import Gateway, TrafficReport, simulated_events
from services.fraud.simulator.state import SimulationState
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings
from services.platform.streaming.connection import connect


async def simulate_live(
    config: Settings,
    seed: int,
    rate: float,
    seconds: float,
    step: ProgressCallback,
    drift: Drift | None = None,
) -> TrafficReport:
    """Simulate live traffic for some seconds, continuing at the stored cursor.

    Args:
        config: Where the stack runs.
        seed: Seed of the simulation.
        rate: Transactions a second.
        seconds: Duration.
        step: Called with (sent, total).
        drift: The drift from now on; None keeps the present one.

    Raises:
        ConnectionError: NATS does not answer.
    """
    nc = await connect(config, "simulator")
    state = await SimulationState.open(nc.jetstream(), START_US)
    if drift is not None:
        await state.set_drift(drift)
    checkpoints = asyncio.create_task(state.checkpoint_forever())
    try:
        gateway = Gateway(nc, SCORER.url(config), config.shards)
        simulated = simulated_events(Traffic(seed, state.schedule), state.cursor_us)
        report = await gateway.run(simulated, rate, round(rate * seconds), step, state.advance)
        checkpoints.cancel()
        await state.checkpoint()
        return report
    finally:
        checkpoints.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checkpoints
        await nc.close()
