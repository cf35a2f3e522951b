"""Reconciliation: find images in the store that have no result, and publish their events.

A webhook keeps undelivered notifications in memory, so a store that is killed loses them. The
images are still in the store. An image that was overwritten since its result was stored has none,
either.
"""

import asyncio
import hashlib
import time

from pyarrow.fs import FileSelector, FileType

from services.cv_inspection.ingestion.events import ImageRef, publish_image, result_stem
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect

# The events of younger images may still be on their way.
MIN_AGE_S = 30.0


async def reconcile(config: Settings, min_age_s: float = MIN_AGE_S) -> int:
    """Publish an event for every image without a result. Returns how many.

    Raises:
        OSError: S3 does not answer.
        ConnectionError, nats.errors.Error: NATS does not answer.
    """
    missing = await asyncio.to_thread(without_result, config, min_age_s)
    if not missing:
        return 0
    nc = await connect(config, "reconciliation")
    try:
        for key in missing:
            identity = hashlib.sha256(f"reconcile {key}".encode()).hexdigest()[:32]
            await publish_image(nc, key, ImageRef.from_key(key).line, identity)
    finally:
        await nc.close()
    return len(missing)


def without_result(config: Settings, min_age_s: float = MIN_AGE_S) -> list[str]:
    """Keys of images that have no result, or one that is older than the image; sorted.

    Raises:
        OSError: S3 does not answer.
    """
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    newest = time.time() - min_age_s  # before the results are listed, which takes its time
    done = {p.removesuffix(".json"): at for p, at in objects(results) if p.endswith(".json")}
    missing = []
    for key, modified in objects(inbox):
        try:
            stem = result_stem(key)
        except ValueError:
            continue  # it is among the dead letters
        if done.get(stem, -1.0) < modified < newest:
            missing.append(key)
    return sorted(missing)


def objects(lake: Lake) -> list[tuple[str, float]]:
    """(key, time of modification in seconds) of every object in a bucket."""
    selector = FileSelector(lake.bucket, recursive=True, allow_not_found=True)
    infos = lake.filesystem.get_file_info(selector)
    prefix = f"{lake.bucket}/"
    return [
        (i.path.removeprefix(prefix), i.mtime.timestamp() if i.mtime else 0.0)
        for i in infos
        if i.type == FileType.File
    ]
