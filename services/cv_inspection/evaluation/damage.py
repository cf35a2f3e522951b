"""What a fault did to images: which were lost, doubled or changed, and what it cost.

The store knows which images landed, the bucket of results which were inspected, and the lake which
inspections were logged. A result that differs from its logged inspection is skewed. Posted images
leave a trace only where they were answered: those that nothing answered, the camera knows.

The money is of images without a result, and of those whose result is an error of the store: a
person inspects these parts, which costs as much as a good part that is stopped. An image that is
inspected late costs nothing here, and one that went to a person because of what it shows is no
damage.
"""

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    STREAM,
    ImageRef,
    result_stem,
)
from services.cv_inspection.ingestion.lake_writer import INSPECTIONS_CONSUMER
from services.cv_inspection.ingestion.reconciliation import objects
from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.problem import REINSPECTION_COST_MINOR
from services.cv_inspection.serving.worker import DURABLE
from services.platform.evaluation.after_fault import FLUSH_S, settled
from services.platform.hooks import Damage
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.streaming.consumer import wait_until_acknowledged
from services.platform.streaming.stored import stored_between

# An image that landed while workers were away is inspected later.
_LATER = timedelta(minutes=10)
# Results that are read and compared, the newest: a millisecond or two each.
_MAX_COMPARED, _READERS = 5_000, 8
_COLUMNS = ["key", "inspection_id", "decision", "defect", "model"]
_COMPARED = ("inspection_id", "decision", "defect", "model")


@dataclass(frozen=True)
class Found:
    """What results say of the images of a time.

    Attributes:
        uninspected: Keys without a result, or with one that is older than the image.
        refused: Keys whose result is an error.
        lost: Keys that were inspected, and the lake has no inspection.
        skewed: Keys whose result differs from the logged inspection.
        compared: Results compared with the logged inspection.
    """

    uninspected: int = 0
    refused: int = 0
    lost: int = 0
    skewed: int = 0
    compared: int = 0


def damage(config: Settings, since: datetime, until: datetime) -> Damage:
    """Count what became of the images of a time, by the clocks of the store and of NATS.

    It waits until the lake has the inspections of the stream. It lists the buckets of images and
    results, as the reconciliation does, and reads the inspections of that time.

    Raises:
        OSError: an engine does not answer.
        ValueError: the lake is behind its stream.
    """
    within, around = asyncio.run(_sequences(config, since, until))
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    # In this order: a result is never older than its image, unless the image was put again.
    landed = {
        key: at
        for key, at in objects(inbox)
        # The store's times are whole seconds.
        if math.floor(since.timestamp()) <= at < until.timestamp() and _is_image(key)
    }
    stems = {result_stem(key): key for key in landed}
    done = {
        stems[stem]
        for path, at in objects(results)
        if (stem := path.removesuffix(".json")) != path
        and stem in stems
        and at >= landed[stems[stem]]
    }
    lake = Lake(config)
    logged = _read(lake, around)
    found = judge(results, sorted(landed, key=landed.__getitem__), done, logged)
    at_that_time = _read(lake, within)
    ids = at_that_time["inspection_id"]
    cost = (found.uninspected + found.refused) * REINSPECTION_COST_MINOR
    return Damage(
        came_in=len(landed) + at_that_time["key"].null_count,
        unanswered=found.uninspected,
        degraded=found.refused,
        lost=found.lost,
        doubled=len(ids) - len(ids.unique()),
        compared=found.compared,
        skewed=found.skewed,
        eur=cost / 100,
        said=tuple(_said(found, len(landed))),
    )


def judge(results: Lake, keys: list[str], done: set[str], logged: pa.Table) -> Found:
    """Compare the results of images with the logged inspections.

    Args:
        keys: The images, in the order in which they landed.
        done: Those with a result.
        logged: Rows with `_COLUMNS`, in order of `seq`; of several of a key the last counts.
    """
    rows = {row["key"]: row for row in logged.to_pylist() if row["key"] is not None}
    chosen = [key for key in keys if key in done]
    # All that the log lacks, and the newest others.
    compared = set([key for key in chosen if key in rows][-_MAX_COMPARED:])
    wanted = [key for key in chosen if key not in rows or key in compared]
    refused = lost = skewed = 0
    with ThreadPoolExecutor(_READERS) as pool:
        for key, result in zip(wanted, pool.map(partial(_result, results), wanted), strict=True):
            if "error" in result:
                refused += 1
            elif key not in rows:
                lost += 1
            else:
                skewed += any(result.get(name) != rows[key][name] for name in _COMPARED)
    return Found(len(keys) - len(chosen), refused, lost, skewed, len(compared))


def _said(found: Found, landed: int) -> Iterator[str]:
    parts = found.uninspected + found.refused
    if not parts:
        yield "every image of the store was inspected"
        return
    yield (
        f"EUR is {REINSPECTION_COST_MINOR / 100:.2f} for a person's inspection of each of "
        f"{parts:,} of {landed:,} images: {found.uninspected:,} without a result, "
        f"{found.refused:,} whose result is an error"
    )
    if found.uninspected:
        yield "a worker looks for images without one each minute, `whiteboard reconcile` at once"


def _is_image(key: str) -> bool:
    try:
        ImageRef.from_key(key)
    except ValueError:
        return False  # it is among the dead letters
    return True


def _result(results: Lake, key: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(results.get(f"{result_stem(key)}.json"))
    return found


def _read(lake: Lake, within: tuple[int, int]) -> pa.Table:
    rows = SequenceReader(lake, INSPECTIONS_TABLE, _COLUMNS, INSPECTIONS).between(*within)
    return INSPECTIONS.empty_table().select(["seq", *_COLUMNS]) if rows is None else rows


async def _sequences(
    config: Settings, since: datetime, until: datetime
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sequences of the inspections of that time; and those among which its images' are."""
    async with settled(config, until, [(DECISIONS_STREAM, INSPECTIONS_CONSUMER)]) as js:
        # Images that wait are not lost yet.
        await wait_until_acknowledged(js, [(STREAM, DURABLE)], FLUSH_S)
    async with settled(config, until, [(DECISIONS_STREAM, INSPECTIONS_CONSUMER)]) as js:
        within = await stored_between(js, DECISIONS_STREAM, since, until)
        # Images of the whole second count, see `damage`: some were inspected before `since`.
        second = since.replace(microsecond=0)
        return within, await stored_between(js, DECISIONS_STREAM, second, until + _LATER)
