"""First start: create the streams, and train a first champion where there is none."""

import asyncio

from services.cv_inspection.ingestion.events import STREAMS
from services.cv_inspection.problem import DESIGN
from services.platform.models.names import served_path
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_stream


def bootstrap(config: Settings, candidate: str, seed: int, bar: ProgressBar) -> bool:
    """Make what is missing. Returns whether anything was.

    Args:
        candidate: The first champion.

    Raises:
        ConnectionError, OSError: an engine does not answer.
    """
    asyncio.run(make_streams(config))
    if Lake(config).exists(served_path(DESIGN)):
        return False
    # Imported here because training's libraries take seconds to import and are needed once.
    from services.cv_inspection.retraining.training import train
    from services.cv_inspection.simulator.labelled_images import HISTORY
    from services.platform.retraining.challenge import promote_without_gate

    made = train(config, candidate, seed, bar, HISTORY.split)
    promote_without_gate(config, made, "the first champion")
    return True


async def make_streams(config: Settings) -> None:
    """Create the streams that are missing."""
    nc = await connect(config, "bootstrap")
    try:
        for name, subjects in STREAMS.items():
            await ensure_stream(nc.jetstream(), name, subjects)
    finally:
        await nc.close()
