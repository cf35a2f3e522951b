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
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import pyarrow as pa
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from redis import Redis
from redis.exceptions import RedisError

from features.aggregation import BackfilledState, RowTable, fold_events, identify
from features.online import OnlineTable
from features.spec import DAY, SEQ, Embedding
from features.state_log import log_folder, row_table, stack, write_log
from services.fraud.features.assignment import Assignment
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.embedding_log import read_embedding_log
from services.fraud.features.handover import (
    OFFERS_FOLDER,
    Offer,
    OnlineRecord,
    entries,
    pending,
    was_taken,
)
from services.fraud.features.states import EMBEDDINGS, FEATURE_SET, STATES
from services.fraud.ingestion import lake_writer
from services.fraud.ingestion.columns import EventReader, Events
from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect

# Events per chunk; its snapshots take about 200 MB.
_CHUNK = 200_000
_ROWS_PER_FILE = 100_000
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


def rebuild(config: Settings, bar: ProgressBar, wait: bool = True) -> Rebuilt:
    """Rebuild rows and state log, and offer the rows to the feature workers.

    Args:
        config: Where the engines run.
        bar: Opens a progress bar with a title.
        wait: Whether to wait until the workers have taken the rows. Without it, they do so when
            they start, and the old log of another feature set stays.

    Raises:
        ValueError: there is nothing to rebuild from, or no worker took the rows.
        ConnectionError, OSError, redis.RedisError: an engine does not answer.
    """
    begin = time.monotonic()
    lake = Lake(config)
    last_seq = asyncio.run(_handled_by(config, lake_writer.NAME))
    with bar("folding the lake's events") as step:
        tables, count = fold_lake(lake, last_seq, step)
    with _open_redis(config) as redis:
        with bar("offering the rows to the feature worker") as step:
            offer = _offer(lake, redis, tables, last_seq, step)
        with bar("writing the embeddings") as step:
            _restore_embeddings(lake, redis, step)
        if wait:
            with bar("the feature worker takes the rows over") as step:
                _wait_until_taken(redis, offer, step)
            lake.remove([OFFERS_FOLDER])
            _remove_other_logs(lake)
    return Rebuilt(
        events=count,
        entities={name: len(table.keys) for name, table in tables.items()},
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


def fold_lake(lake: Lake, last_seq: int, step: ProgressCallback) -> tuple[dict[str, RowTable], int]:
    """Fold the lake's events up to a sequence and write the state log.

    Returns:
        By state name, the rows; and the number of events.

    Raises:
        ValueError: the lake has no events where it should.
        OSError: S3 did not answer.
    """
    tables = {state.name: RowTable(state) for state in STATES}
    count = 0
    for begin, events, since in _chunks(lake, last_seq):
        for folded in _fold(tables, events):
            write_log(lake, STATE_LOG, events, folded, since, f"seq-{begin:012d}")
        count += len(events)
        step(min(begin + _CHUNK, last_seq), last_seq)
    _remove_files_of_backfill(lake)
    return tables, count


def _fold(tables: dict[str, RowTable], events: Events) -> Iterator[BackfilledState]:
    """Fold a chunk of events, and return each state's part that the chunk touched."""
    identified = {state.name: identify(state, events.keys) for state in STATES}
    positions = {name: tables[name].positions(keys) for name, (_, keys) in identified.items()}
    rows = {name: codes for name, (codes, _) in identified.items()}
    parts = {name: tables[name].load(found) for name, found in positions.items()}
    snapshots = fold_events(STATES, events, rows, parts, np.arange(len(events)))
    for state in STATES:
        name = state.name
        tables[name].store(positions[name], parts[name])
        yield BackfilledState(state, identified[name][1], parts[name], rows[name], snapshots[name])


def _chunks(lake: Lake, last_seq: int) -> Iterator[tuple[int, Events, float]]:
    """(sequence before the chunk, its events, event time from which states are logged)."""
    if not last_seq:
        return  # the stream holds all events
    reader = EventReader(lake)
    oldest = reader.begin(last_seq)
    if oldest is None:
        raise ValueError(f"the lake holds no events up to {last_seq}: it was lost")
    for begin in range(0, last_seq, _CHUNK):
        events = Events.from_tables(*reader.between(begin, min(begin + _CHUNK, last_seq)))
        if len(events):
            yield begin, events, oldest + WARM_UP_DAYS * DAY


def _open_redis(config: Settings) -> Redis:
    """A connection that answers. ConnectionError if it does not."""
    redis = Redis.from_url(config.redis)
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


def _offer(
    lake: Lake, redis: Redis, tables: dict[str, RowTable], last_seq: int, step: ProgressCallback
) -> Offer:
    """Write the rows into the lake and offer them; earlier offers' rows are removed."""
    hashes = {state.name: state.hash for state in STATES}
    offer = Offer(f"{last_seq:012d}-{uuid4().hex[:8]}", last_seq, hashes)
    for number, table in enumerate(tables.values(), start=1):
        keys, rows = table.keys, table.rows
        # One file at least: a folder that is missing is an offer whose rows were removed.
        for begin in range(0, max(len(keys), 1), _ROWS_PER_FILE):
            part = slice(begin, begin + _ROWS_PER_FILE)
            written = row_table(table.state, keys[part], rows[part])
            where = offer.table(table.state)
            lake.write(where, written, f"part-{begin:09d}", partition=False)
        step(number, len(tables))
    earlier = [f for f in lake.files(OFFERS_FOLDER) if f"/{offer.id}/" not in f]
    OnlineRecord(redis).offer(offer)
    for file in earlier:
        lake.filesystem.delete_file(file)
    return offer


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
    for begin in range(0, len(newest), _ROWS_PER_FILE):
        part = newest.iloc[begin : begin + _ROWS_PER_FILE]
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


def _remove_files_of_backfill(lake: Lake) -> None:
    """The rebuilt log holds what the backfill's files hold, and more."""
    for state in STATES:
        for file in lake.files(f"{STATE_LOG}/{log_folder(state)}"):
            if "/part-" in file:
                lake.filesystem.delete_file(file)


def _remove_other_logs(lake: Lake) -> None:
    """Remove the logs of other declarations."""
    known = {log_folder(view) for view in FEATURE_SET.views}
    for file in lake.files(STATE_LOG):
        if file.split("/")[-2] not in known:
            lake.filesystem.delete_file(file)
