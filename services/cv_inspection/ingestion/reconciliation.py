"""Pictures whose event never came: the store is asked what it holds, and the rest is told.

A webhook keeps what it could not deliver in memory, so a store that is killed forgets it. The store
itself does not.
"""

import asyncio
import hashlib
import time

from pyarrow.fs import FileSelector, FileType

from services.cv_inspection.ingestion.events import Place
from services.cv_inspection.serving.app import publish_image
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect

# Younger ones may have their event on the way.
OLD_ENOUGH_S = 30.0


async def reconcile(config: Settings, old_enough_s: float = OLD_ENOUGH_S) -> int:
    """Put an event on the stream for every picture without a result. Returns how many.

    Raises:
        OSError: S3 does not answer. ConnectionError, nats.errors.Error: NATS does not.
    """
    missing = await asyncio.to_thread(missed, config, old_enough_s)
    if not missing:
        return 0
    nc = await connect(config, "reconciliation")
    try:
        for key in missing:
            identity = hashlib.sha256(f"reconcile {key}".encode()).hexdigest()[:32]
            await publish_image(nc, key, Place.of(key).line, identity)
    finally:
        await nc.close()
    return len(missing)


def missed(config: Settings, old_enough_s: float = OLD_ENOUGH_S) -> list[str]:
    """Keys of pictures without a result. OSError if S3 does not answer."""
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    done = {path.removesuffix(".json") for path, _ in _objects(results) if path.endswith(".json")}
    newest = time.time() - old_enough_s
    found = []
    for key, changed in _objects(inbox):
        try:
            stem = Place.of(key).stem
        except ValueError:
            continue  # the dead letters have it
        if stem not in done and changed < newest:
            found.append(key)
    return sorted(found)


def _objects(lake: Lake) -> list[tuple[str, float]]:
    """(key, when it changed) of everything in a bucket."""
    selector = FileSelector(lake.bucket, recursive=True, allow_not_found=True)
    infos = lake.filesystem.get_file_info(selector)
    prefix = f"{lake.bucket}/"
    return [
        (i.path.removeprefix(prefix), i.mtime.timestamp() if i.mtime else 0.0)
        for i in infos
        if i.type == FileType.File
    ]
