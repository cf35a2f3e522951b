"""First start: history into the lake, states into the store, streams, and a first champion.

Each part is skipped where it is done already. Creating the stream comes last of the first part:
a bootstrap that is interrupted before it starts over.
"""

import asyncio

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis import Redis

from features.online import OnlineTable
from services.fraud.features import backfill as history
from services.fraud.features.states import STATES
from services.fraud.ingestion.events import STREAM, STREAMS, Events
from services.fraud.retraining.training import WARM_UP_DAYS, train
from services.fraud.simulator.gateway import WorldState
from services.fraud.simulator.traffic import DAY_US, START_US, Traffic
from services.platform.models.served_model import champion_path
from services.platform.progress import Bar
from services.platform.retraining.challenge import promote_unjudged
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect, ensure_stream

HISTORY_DAYS = 60
CANDIDATE = "xgboost"


def bootstrap(config: Settings, seed: int, days: int, bar: Bar) -> bool:
    """Do what is missing. Returns whether anything was.

    Raises:
        ConnectionError, OSError, redis.RedisError: an engine does not answer.
        TooLittleHistory: `days` are too few to train on.
    """
    fresh = not asyncio.run(_have_streams(config))
    if fresh:
        _make_history(config, Traffic(seed), days, bar)
    untrained = not Lake(config).exists(champion_path("fraud"))
    if untrained:
        made = train(config, CANDIDATE, seed, bar)
        promote_unjudged(config, made, "the first champion")
    return fresh or untrained


def _make_history(config: Settings, traffic: Traffic, days: int, bar: Bar) -> None:
    lake = Lake(config)
    with bar(f"simulating {days} days") as step:
        made = history.simulate(traffic, days, step)
    with bar("writing them to the lake") as step:
        lake.remove(["fraud"])
        transactions, labels = history.write_lake(lake, made, step)
    with bar("folding features") as step:
        step(0, 1)
        events = Events.from_tables(transactions, labels)
        folded = history.fold_history(events)
        step(1, 1)
    with bar("logging states for training") as step:
        since = (START_US + WARM_UP_DAYS * DAY_US) / 1e6
        history.write_states(lake, events, folded, since, step)
    with bar("loading the online store") as step, Redis.from_url(config.redis) as redis:
        tables = {state.name: OnlineTable(redis, state) for state in STATES}
        for table in tables.values():
            table.clear()
        history.load_online(tables, folded, step)
    asyncio.run(_make_streams(config, made.last_seq, START_US + days * DAY_US))


async def _have_streams(config: Settings) -> bool:
    """Whether there are streams; those that are there are brought up to date."""
    nc = await connect(config, "bootstrap")
    js = nc.jetstream()
    try:
        await js.stream_info(STREAM)
        await make_streams(js, last_seq=0)
    except NotFoundError:
        return False
    finally:
        await nc.close()
    return True


async def _make_streams(config: Settings, last_seq: int, end_us: int) -> None:
    nc = await connect(config, "bootstrap")
    try:
        js = nc.jetstream()
        state = await WorldState.open(js, end_us)
        await state.store()
        await make_streams(js, last_seq)
    finally:
        await nc.close()


async def make_streams(js: JetStreamContext, last_seq: int) -> None:
    """Create the streams that are missing. That of events comes last: history is complete then."""
    for name, subjects in reversed(STREAMS.items()):
        first = last_seq + 1 if name == STREAM else 1
        await ensure_stream(js, name, subjects, first)
