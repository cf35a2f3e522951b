"""First start: backfill lake and online store, create the streams, train a first champion.

Completed parts are skipped. The stream of events is created last: a first start that is interrupted
earlier starts over.
"""

import asyncio
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from features.cluster.clients import open_redis
from services.fraud.ingestion.events import STREAM, STREAMS
from services.fraud.problem import DESIGN
from services.platform.models.names import served_path
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_stream

if TYPE_CHECKING:
    from services.fraud.retraining.dataset import PointInTime


def bootstrap(config: Settings, candidate: str, seed: int, days: int, bar: ProgressBar) -> bool:
    """Do what is missing. Heavy modules are imported only when needed: a complete start is fast.

    Args:
        config: Where the engines run.
        candidate: The first champion.
        seed: Seed of the simulation and of the training.
        days: Days to backfill.
        bar: Opens a progress bar with a title.

    Returns:
        Whether anything was missing.

    Raises:
        ConnectionError, OSError, redis.RedisError: an engine does not answer.
        NotEnoughData: `days` are too few to train on.
    """
    is_new = not asyncio.run(_streams_exist(config))
    untrained = not Lake(config).exists(served_path(DESIGN))
    with ThreadPoolExecutor(1) as beside:
        if is_new:
            made = _backfill(config, seed, days, bar, beside)
            if untrained:
                _train(config, candidate, seed, bar, made.read)
            with bar("logging states for training") as step:
                step(0, 1)
                made.logged.result()
                step(1, 1)
            asyncio.run(_start_live(config, made.last_seq, made.end_us))
        else:
            _rebuild_if_needed(config, bar)
            if untrained:
                _train(config, candidate, seed, bar, None)
    return is_new or untrained


def _train(
    config: Settings, candidate: str, seed: int, bar: ProgressBar, read: "PointInTime | None"
) -> None:
    from services.fraud.retraining.training import train
    from services.platform.retraining.challenge import promote_without_gate

    made = train(config, candidate, seed, bar, read)
    promote_without_gate(config, made, "the first champion")


def _rebuild_if_needed(config: Settings, bar: ProgressBar) -> None:
    """Rebuild the online store if it is of another feature set, or was lost."""
    from services.fraud.features import rebuild

    if found := rebuild.incomplete(config):
        with bar(f"rebuilding the online store, for {', '.join(found)}") as step:
            step(1, 1)
        rebuild.rebuild(config, bar, wait=False)


@dataclass(frozen=True)
class _Backfilled:
    """What was backfilled.

    Attributes:
        read: Reads what training needs of it.
        logged: Done when the lake has the log of states.
        last_seq: Sequence of the last event.
        end_us: Event time at which live traffic begins, microseconds.
    """

    read: "PointInTime"
    logged: Future[None]
    last_seq: int
    end_us: int


def _backfill(
    config: Settings, seed: int, days: int, bar: ProgressBar, beside: Executor
) -> _Backfilled:
    """Make lake, states and online store; the log of states is written beside what follows."""
    from features.online.table import OnlineTable
    from services.fraud.features import backfill
    from services.fraud.features.ownership.handover import OnlineRecord
    from services.fraud.features.states import STATES
    from services.fraud.ingestion.columns import Events
    from services.fraud.simulator.day import DAY_US, START_US
    from services.fraud.simulator.history import simulate_days, write_lake
    from services.fraud.simulator.traffic import Traffic

    lake = Lake(config)
    with bar(f"simulating {days} days") as step:
        made = simulate_days(Traffic(seed), days, step)
    with bar("writing the lake") as step:
        lake.remove(["fraud"])
        transactions, labels = write_lake(lake, made, step)
    with bar("computing states") as step:
        step(0, 1)
        events = Events.from_tables(transactions, labels)
        states = backfill.backfill_states(events)
        step(1, 1)
    since = (START_US + backfill.WARM_UP_DAYS * DAY_US) / 1e6
    logged = beside.submit(backfill.write_states, lake, events, states, since)
    with bar("loading the online store") as step, open_redis(config) as redis:
        tables = {state.name: OnlineTable(redis, state) for state in STATES}
        for table in tables.values():
            table.clear()
        backfill.load_online(tables, states, step)
        OnlineRecord(redis).reset(STATES)
    return _Backfilled(
        lambda _, rows: backfill.vectors_before(states, rows),
        logged,
        made.last_seq,
        START_US + days * DAY_US,
    )


async def _streams_exist(config: Settings) -> bool:
    """Whether the stream of events exists; existing streams are updated."""
    nc = await connect(config, "bootstrap")
    js = nc.jetstream()
    try:
        await js.stream_info(STREAM)
        await create_streams(js, last_seq=0)
    except NotFoundError:
        return False
    finally:
        await nc.close()
    return True


async def _start_live(config: Settings, last_seq: int, end_us: int) -> None:
    from services.fraud.simulator.live import SimulationState

    nc = await connect(config, "bootstrap")
    try:
        js = nc.jetstream()
        state = await SimulationState.open(js, end_us)
        await state.checkpoint()
        await create_streams(js, last_seq)
    finally:
        await nc.close()


async def create_streams(js: JetStreamContext, last_seq: int) -> None:
    """Create missing streams, the stream of events last: its existence means a complete backfill.

    Args:
        js: The JetStream context.
        last_seq: Sequence of the last backfilled event; the stream of events continues after it.
    """
    for name, subjects in reversed(STREAMS.items()):
        first = last_seq + 1 if name == STREAM else 1
        await ensure_stream(js, name, subjects, first)
