"""A scorer from its start to its end: what it opens, follows and keeps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import numpy as np
from nats.aio.client import Client

from features.cluster.clients import open_link
from features.online.reader import OnlineReader
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import REQUEST_FEATURES
from services.fraud.features.states import STATES
from services.fraud.model import FraudModel
from services.fraud.reasons import forest
from services.fraud.review.live import LivePolicy
from services.fraud.rules.live import LiveRules
from services.fraud.service import SCORER
from services.fraud.serving import row_file
from services.fraud.serving.row_preload import preload
from services.fraud.serving.scorer import MISSING_ROWS, Scorer
from services.platform.models.served_model import ServedModel
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.streaming.outbox import Outbox

# NATS is seldom away for as long at a start, and then the last known rules decide.
_CATCH_UP_S, _LOOK_S = 1.0, 0.02


@asynccontextmanager
async def open_scorer(
    config: Settings,
    champion: ServedModel[FraudModel],
    outbox: Outbox,
    nats: Callable[[], Client],
) -> AsyncIterator[Scorer]:
    """A scorer and its Redis connection, closed at exit. It starts without Redis too.

    Args:
        nats: Returns the connection by which rules and costs are followed.
    """
    redis = open_link(config)
    folder = config.folder(SCORER.name)
    rules = await asyncio.to_thread(LiveRules, folder / "rules")
    policies = LivePolicy()
    scorer = Scorer(champion, redis, outbox, config.shards, rules, policies, config.control_share)
    kept = folder / "rows.npz"
    await row_file.load(scorer.cache, row_file.newest(kept, SCORER.name))
    _warm_up()
    await scorer.connect()
    if config.instance:
        await _catch_up(nats(), rules, policies)
    watching = (
        scorer.watch_redis(),
        rules.watch(nats()),
        policies.watch(nats()),
        row_file.save_forever(scorer.cache, kept),
        preload(scorer.cache, OnlineReader(redis, STATES)),
    )
    tasks = [asyncio.create_task(one) for one in watching]
    try:
        yield scorer
    finally:
        await cancel_tasks(*tasks)
        await row_file.save(scorer.cache, kept)
        redis.close()


async def _catch_up(nc: Client, rules: LiveRules, policies: LivePolicy) -> None:
    """Follow rules and costs once before the first request: other processes decide by them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CATCH_UP_S):
            while not nc.is_connected:
                await asyncio.sleep(_LOOK_S)
            await rules.look(nc)
            await policies.look(nc)


def _warm_up() -> None:
    """Load the compiled kernels before the first request."""
    feature_vectors(MISSING_ROWS, np.zeros((1, len(REQUEST_FEATURES))))
    forest.warm_up()
