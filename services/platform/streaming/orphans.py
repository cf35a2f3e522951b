"""Outboxes of processes that have ended for good: another process of the service publishes them.

A process that is drained or killed while the stream is away leaves decisions in its file. Where no
process starts in its place, because there are fewer now, the file would wait for ever.
"""

import asyncio
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from services.platform.runtime.sharing.siblings import number_of
from services.platform.streaming.outbox import Outbox
from services.platform.streaming.spill_file import FILE, SpillFile

log = logging.getLogger(__name__)

_LOOK_S = 5.0
_BATCH = 500


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's outbox: no process takes it over meanwhile. Waits while one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def take_over_forever(outbox: Outbox, home: Path, service: str, own: Path) -> None:
    """Publish what processes of a service have left behind. Runs until cancelled.

    While this process's own file waits for the stream, the others' stay where they are.

    Args:
        own: The folder of this process.
    """
    while True:
        for folder in sorted(home.glob(f"{service}*")):
            is_process = number_of(folder.name, service) is not None
            if is_process and folder != own and _waits(folder) and not outbox.spilled:
                try:
                    await take_over(outbox, folder)
                except OSError as error:
                    log.error("the outbox of %s can't be taken over: %s", folder.name, error)
        await asyncio.sleep(_LOOK_S)


async def take_over(outbox: Outbox, folder: Path) -> int:
    """Move the events of a folder's outbox into another, unless its process runs.

    Killed in between, they are moved again: the stream drops what it has by its id for two minutes,
    and readers of the lake deduplicate.

    Returns:
        How many.

    Raises:
        OSError: a file can't be read or written; what was not moved stays.
    """
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        left = SpillFile(folder, 0)
        found = left.count
        while left.count:
            outbox.adopt(left.peek(_BATCH))
            left.confirm()
            await asyncio.sleep(0)
    log.warning("%d decisions that %s has left are published by this process", found, folder.name)
    return found


def _waits(folder: Path) -> bool:
    try:
        return (folder / FILE).stat().st_size > 0
    except OSError:
        return False


def _lock_file(folder: Path) -> IO[str]:
    return (folder / "outbox.lock").open("w")
