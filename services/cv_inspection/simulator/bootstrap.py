"""First start: streams, and a first champion where the registry has none."""

import asyncio

from services.cv_inspection.design import DESIGN
from services.cv_inspection.ingestion.events import STREAMS
from services.platform.models.served_model import champion_path
from services.platform.progress import Bar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect, ensure_stream


def bootstrap(config: Settings, seed: int, bar: Bar) -> bool:
    """Do what is missing. Returns whether anything was.

    Raises:
        ConnectionError, OSError: an engine does not answer.
    """
    asyncio.run(make_streams(config))
    if Lake(config).exists(champion_path(DESIGN.name)):
        return False
    # Training's libraries take seconds to import, and are needed once.
    from services.cv_inspection.retraining.training import train
    from services.platform.retraining.challenge import promote_unjudged

    made = train(config, DESIGN.first_candidate, seed, bar)
    promote_unjudged(config, made, "the first champion")
    return True


async def make_streams(config: Settings) -> None:
    """Create the streams that are missing."""
    nc = await connect(config, "bootstrap")
    try:
        for name, subjects in STREAMS.items():
            await ensure_stream(nc.jetstream(), name, subjects)
    finally:
        await nc.close()
