"""Rebuild the online store and the state log from the lake, while scoring goes on.

Needed when the declaration of a state has changed (`states.py`), and when Redis was lost. All
events of the lake up to a sequence N are folded here, in chunks of the stream, by the same kernel
as ever: the state log is written on the way, and the rows as of N are offered to the feature
workers, which take them over between two batches and go on behind N (`handover.py`).

N is what the lake writer has acknowledged, so the lake holds every event up to it. Events behind N
are on the stream, where the workers read them. The offer is one Redis command: killed before it,
the process leaves files that the next run overwrites or removes; killed after it, it has done its
work. Chunks end at fixed sequences, so a second run writes the same files with the same content,
and training does not read a log whose rebuild has not come to the offer (`unfinished`).

In memory are the events and snapshots of one chunk, and all rows.
"""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis import Redis
from redis.exceptions import RedisError

from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from features.spec import SEQ, Embedding
from features.state_log import log_folder, stack
from services.fraud.features.embedding_log import read_embedding_log
from services.fraud.features.lake_fold import Fold, fold_here
from services.fraud.features.ownership.assignment import Assignment
from services.fraud.features.ownership.handover import (
    OFFERS_FOLDER,
    Offer,
    OnlineRecord,
    entries,
    pending,
    was_taken,
)
from services.fraud.features.states import EMBEDDINGS, FEATURE_SET, STATES
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect

_ROWS_PER_WRITE = 100_000
_TAKEN_TIMEOUT_S = 120.0
_POLL_S = 0.25


@dataclass(frozen=True)
class Rebuilt:
    """What was rebuilt.

    Attributes:
        events: Events folded.
        entities: By state name, how many entities have a row.
        seconds: How long it took, until the workers had the rows.
        feature_set: Hash of the feature set.
    """

    events: int
    entities: dict[str, int]
    seconds: float
    feature_set: str


def rebuild(
    config: Settings, bar: ProgressBar, wait: bool = True, fold: Fold = fold_here
) -> Rebuilt:
    """Rebuild rows and state log, and offer the rows to the feature workers.

    Args:
        config: Where the engines run.
        bar: Opens a progress bar with a title.
        wait: Whether to wait until the workers have taken the rows. Without it, they do so when
            they start, and the old log of another feature set stays.
        fold: What folds: this process, or Spark (`services/fraud/features/spark`).

    Raises:
        ValueError: there is nothing to rebuild from, or no worker took the rows.
        ConnectionError, OSError, redis.RedisError: an engine does not answer.
    """
    begin = time.monotonic()
    lake = Lake(config)
    last_seq = asyncio.run(_handled_by(config, lake_writer.NAME))
    folded = fold(lake, last_seq, bar)
    offer = folded.offer
    with _open_redis(config) as redis:
        _offer(lake, redis, offer)
        with bar("writing the embeddings") as step:
            _restore_embeddings(lake, redis, step)
        if wait:
            with bar("the feature worker takes the rows over") as step:
                _wait_until_taken(redis, offer, step)
            lake.remove([OFFERS_FOLDER])
            _remove_other_logs(lake)
    return Rebuilt(
        events=folded.events,
        entities=folded.entities,
        seconds=round(time.monotonic() - begin, 1),
        feature_set=FEATURE_SET.hash,
    )


def unfinished(config: Settings) -> list[str]:
    """The states of another declaration that no rebuild has finished, by name: no log to train on.

    Raises:
        ConnectionError, redis.RedisError: Redis does not answer.
    """
    with _open_redis(config) as redis:
        found = OnlineRecord(redis).read()
    if pending(found, STATES) is not None:
        return []
    known = zip(STATES, entries(found, STATES), strict=True)
    return [state.name for state, entry in known if entry not in (None, state.hash)]


def incomplete(config: Settings) -> list[str]:
    """The states whose rows must be rebuilt and are not offered yet, by name.

    Raises:
        ConnectionError, redis.RedisError: an engine does not answer.
    """
    with _open_redis(config) as redis:
        record = OnlineRecord(redis)
        found = record.read()
        if entries(found, STATES) == [state.hash for state in STATES]:
            return []
        first = Assignment.of(found).durable(0)
        if pending(found, STATES, first) is not None:
            return []
        last_folded = max(Assignment.of(found).after, asyncio.run(_handled_by(config, first)))
        usable = record.usable(STATES, last_folded)
    return [state.name for state in STATES if state not in usable]


def _open_redis(config: Settings) -> Redis:
    """A connection that answers. ConnectionError if it does not."""
    redis = open_redis(config)
    try:
        redis.ping()
    except RedisError as error:
        raise ConnectionError(f"no Redis: {error}: is the stack up? `whiteboard up`") from None
    return redis


async def _handled_by(config: Settings, durable: str) -> int:
    """The last sequence up to which a consumer, or the backfill, has handled every event."""
    nc = await connect(config, "rebuild")
    try:
        js = nc.jetstream()
        backfilled = (await js.stream_info(STREAM)).state.first_seq - 1
        return max(backfilled, await _ack_floor(js, durable))
    except NotFoundError:
        raise ValueError("there are no events yet: `whiteboard up`") from None
    finally:
        await nc.close()


async def _ack_floor(js: JetStreamContext, durable: str) -> int:
    try:
        info = await js.consumer_info(STREAM, durable)
    except NotFoundError:
        return 0
    return info.ack_floor.stream_seq if info.ack_floor else 0


def _offer(lake: Lake, redis: Redis, offer: Offer) -> None:
    """Offer rows to the workers; earlier offers' rows are removed."""
    earlier = [f for f in lake.files(OFFERS_FOLDER) if f"/{offer.id}/" not in f]
    OnlineRecord(redis).offer(offer)
    for file in earlier:
        lake.filesystem.delete_file(file)


def _restore_embeddings(lake: Lake, redis: Redis, step: ProgressCallback) -> None:
    """Write each party's last logged embedding, unless the store has it or a newer one."""
    logged = read_embedding_log(lake)
    for number, view in enumerate(EMBEDDINGS, start=1):
        found = logged[view.name]
        if found is not None and len(found):
            _restore_embedding(OnlineTable(redis, view), view, found)
        step(number, len(EMBEDDINGS))


def _restore_embedding(table: OnlineTable, view: Embedding, logged: pa.Table) -> None:
    newest = (
        logged.to_pandas()
        .sort_values("seq", kind="stable")
        .drop_duplicates(list(view.keys), keep="last")
    )
    for begin in range(0, len(newest), _ROWS_PER_WRITE):
        part = newest.iloc[begin : begin + _ROWS_PER_WRITE]
        keys = [(key,) for key in part[view.keys[0]]]
        rows = stack(part[view.name], view.width)
        is_older = ~(table.load(keys)[:, SEQ] >= rows[:, SEQ])
        chosen = np.nonzero(is_older)[0]
        table.store([keys[i] for i in chosen], rows[chosen])


def _wait_until_taken(redis: Redis, offer: Offer, step: ProgressCallback) -> None:
    """Wait until every feature worker has taken the offer. ValueError if one does not."""
    record = OnlineRecord(redis)
    end = time.monotonic() + _TAKEN_TIMEOUT_S
    while True:
        found = record.read()
        workers = Assignment.of(found).durables
        taken = [name for name in workers if was_taken(found, name, offer)]
        step(len(taken), len(workers))
        if len(taken) == len(workers):
            return
        if pending(found, ()) != offer:
            raise ValueError("another rebuild began, or Redis was lost: run it again")
        if time.monotonic() > end:
            waiting = ", ".join(sorted(set(workers) - set(taken)))
            raise ValueError(
                f"{waiting} did not take the rows over within {_TAKEN_TIMEOUT_S:.0f} s; it "
                "does so when it runs under this feature set: `whiteboard status`"
            )
        time.sleep(_POLL_S)


def _remove_other_logs(lake: Lake) -> None:
    """Remove the logs of other declarations."""
    known = {log_folder(view) for view in FEATURE_SET.views}
    for file in lake.files(STATE_LOG):
        if file.split("/")[-2] not in known:
            lake.filesystem.delete_file(file)
