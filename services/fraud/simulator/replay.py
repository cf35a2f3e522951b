"""Send the transactions of a file through the gateway, each of them once."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from services.fraud.ingestion.events import LabelEvent, feed_name, microseconds
from services.fraud.ingestion.replay import LabelCounts, replayed_events
from services.fraud.ingestion.time_bounds import time_of
from services.fraud.ingestion.transaction_file import TransactionFile
from services.fraud.service import SCORER
from services.fraud.simulator.gateway import Gateway, TrafficReport
from services.fraud.simulator.replay_log import ReplayLog, ReplayProgress, ReplayRecord
from services.platform.progress import ProgressCallback
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.streaming.connection import connect


class AlreadyReplayed(ValueError):
    """Transactions of the file were replayed before."""


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay, and how.

    Attributes:
        rate: Transactions a second.
        max_transactions: Stop after this many.
        since: Begin at this event time; None for the beginning.
        resume: Go on where the last replay of these transactions stopped.
    """

    rate: float
    max_transactions: int
    since: datetime | None = None
    resume: bool = False


async def replay(
    config: Settings,
    source: TransactionFile,
    request: ReplayRequest,
    counts: LabelCounts,
    step: ProgressCallback,
) -> TrafficReport:
    """Send a file's transactions and labels through the gateway, and record how far it came.

    Args:
        config: Where the stack runs.
        source: The file.
        request: What to replay.
        counts: Receives the number of transactions without a label event.
        step: Called with (sent, max_transactions).

    Raises:
        AlreadyReplayed: events would be sent a second time.
        ConnectionError: NATS does not answer.
    """
    nc = await connect(config, "replay")
    try:
        log = await ReplayLog.open(nc.jetstream())
        sketch = source.sketch()
        previous = await log.find(sketch)
        record = next_record(source.name, sketch, previous, request)
        known = await log.published_around(previous) if previous and request.resume else set()
        progress = ReplayProgress(record, known)
        events = replayed_events(source, _time(record.since_us), _time(record.reached_us), counts)
        feed = feed_name(source.mapping.prefix or source.name)
        gateway = Gateway(nc, SCORER.url(config), config.shards, feed)
        checkpoints = asyncio.create_task(progress.write_forever(log))
        try:
            return await gateway.run(
                progress.events(events),
                request.rate,
                request.max_transactions,
                step,
                on_published=progress.published,
            )
        finally:
            await cancel_tasks(checkpoints)
            if previous or gateway.report.labels or record.transactions:
                await log.write(progress.update())
            else:
                await log.delete(record)
    finally:
        await nc.close()


def next_record(
    name: str, sketch: list[str], previous: ReplayRecord | None, request: ReplayRequest
) -> ReplayRecord:
    """The record that a replay begins with.

    Args:
        name: The file's name.
        sketch: The file's sketch.
        previous: The furthest replay of these transactions.
        request: What to replay.

    Raises:
        AlreadyReplayed: events would be sent a second time.
    """
    since_us = None if request.since is None else microseconds(request.since)
    if previous is None:
        return ReplayRecord(name, sketch, since_us)
    reached_us = previous.reached_us
    is_later = since_us is not None and reached_us is not None and since_us > reached_us
    if not request.resume and not is_later:
        as_file = "" if previous.file == name else f" (in {previous.file})"
        until = f"{time_of(reached_us):%Y-%m-%d %H:%M:%S}" if reached_us else "its first event"
        raise AlreadyReplayed(
            f"{name}: transactions of it were replayed before{as_file}, up to {until}, and would "
            "count twice. --resume goes on from there; --run NAME replays the file as a data set "
            "of its own"
        )
    if since_us is not None and is_later:
        return ReplayRecord(name, sketch, since_us, since_us - 1, previous.transactions)
    return ReplayRecord(name, sketch, previous.since_us, reached_us, previous.transactions)


def check(source: TransactionFile, counts: LabelCounts) -> dict[str, int]:
    """Read the whole file as a replay would, and send nothing.

    Returns:
        Number of transactions and of label events that a replay would send.
    """
    events = replayed_events(source, counts=counts)
    found = Counter(isinstance(one.event, LabelEvent) for one in events)
    return {"transactions": found[False], "labels": found[True]}


def _time(time_us: int | None) -> datetime | None:
    return None if time_us is None else time_of(time_us)
