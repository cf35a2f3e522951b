"""The rows of a scorer's cache in a file.

A scorer that starts while the online store is away has those of the last run. Without them the
fallback knows only the request, and an hour costs 3.5 times an ordinary one (docs/fallback.md).
"""

import asyncio
import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import orjson

from services.fraud.features.states import FEATURE_SET
from services.fraud.serving.row_cache import KeptRows, RowCache
from services.platform.runtime.sharing.siblings import number_of

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 120.0
_META = "meta"


def encode(kept: KeptRows) -> bytes:
    """Rows by view name as an archive of arrays, with the hash of the feature set."""
    # Tuples as they are: with 60,000 new lists the garbage collector held requests up for 70 ms.
    keys = {name: [key for key, _ in rows] for name, rows in kept.items()}
    meta = orjson.dumps({"feature_set": FEATURE_SET.hash, "keys": keys})
    arrays: dict[str, np.ndarray] = {_META: np.frombuffer(meta, np.uint8)}
    arrays |= {
        name: np.concatenate([row for _, row in rows]) for name, rows in kept.items() if rows
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def decode(data: bytes) -> KeptRows:
    """Rows by view name.

    Raises:
        ValueError: it is no such archive, or of another feature set.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            meta = orjson.loads(arrays[_META].tobytes())
            if meta["feature_set"] != FEATURE_SET.hash:
                raise ValueError("of another feature set")
            return {
                name: [(tuple(key), row[None]) for key, row in zip(keys, arrays[name], strict=True)]
                for name, keys in meta["keys"].items()
                if keys
            }
    except (KeyError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a file of rows: {error}") from error


def newest(own: Path, service: str) -> Path:
    """The newest file of a service's processes: the own one may be of long ago, or missing."""
    found = own.parent.parent.glob(f"{service}*/{own.name}")
    files = [path for path in found if number_of(path.parent.name, service) is not None]
    return max(files, key=lambda path: path.stat().st_mtime, default=own)


async def load(cache: RowCache, path: Path) -> None:
    """Fill an empty cache from a file; one that is missing or unusable changes nothing."""
    try:
        kept = await asyncio.to_thread(lambda: decode(path.read_bytes()))
        cache.add_older(kept)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        log.warning("%s is ignored, the cache of rows begins empty: %s", path.name, error)
        return
    log.info("%d rows of the last run are known", len(cache))


async def save(cache: RowCache, path: Path) -> None:
    """Write the cache into a file, off the event loop but for the copies of its views."""
    kept = {}
    for name in cache.views:
        kept[name] = cache.kept(name)
        await asyncio.sleep(0)
    try:
        await asyncio.to_thread(_write, path, kept)
    except OSError as error:
        log.warning("rows are not saved: %s", error)


async def save_forever(cache: RowCache, path: Path) -> None:
    """Save every two minutes. Runs until cancelled."""
    while True:
        await asyncio.sleep(_SAVE_INTERVAL_S)
        await save(cache, path)


def _write(path: Path, kept: KeptRows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.{os.getpid()}")
    written.write_bytes(encode(kept))
    os.replace(written, path)
