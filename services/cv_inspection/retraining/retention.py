"""Retention: which inspections and images may go, and which something still needs.

An image, its mask and its map are the largest part of what the line keeps. After a model has
learned from its label, an image is only history. It expires `RETENTION_DAYS` after the newest
inspection's day, but never while something needs it:

- customers send a part back within `RETURN_DAYS`, and its label needs the inspection and the image;
- the gate and the retraining read what champion and challenger were not trained on, and the parts
  that were sent back since then;
- an image without a result waits for its inspection.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from monitoring.drift_table import drift_table
from services.cv_inspection.ingestion.events import result_stem
from services.cv_inspection.ingestion.reconciliation import objects
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE, LABELS_TABLE
from services.cv_inspection.model import read_model
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.retraining.outcomes import RETURN_DAYS
from services.platform.models.names import CHALLENGER, CHAMPION
from services.platform.models.served_file import get_served
from services.platform.progress import ProgressBar
from services.platform.retraining.shadow import shadow_table
from services.platform.settings import Settings
from services.platform.storage.lake import Lake, partition_date

RETENTION_DAYS = 180
_EXPIRING = (INSPECTIONS_TABLE, LABELS_TABLE, shadow_table(DESIGN), drift_table(DESIGN))


@dataclass(frozen=True)
class Expired:
    """What a run of the retention removed.

    Attributes:
        before: Days before this one have expired, YYYY-MM-DD; empty for none yet.
        files: Files of the lake.
        images: Images.
        results: Results, masks and maps of images.
    """

    before: str = ""
    files: int = 0
    images: int = 0
    results: int = 0


def expire(config: Settings, bar: ProgressBar, days: float = RETENTION_DAYS) -> Expired:
    """Remove whole days of inspections, labels, scores, drift windows and images without a use.

    Raises:
        OSError: S3 did not answer; run it again.
        ValueError: the retention is shorter than the time in which parts come back.
    """
    lake = Lake(config)
    moment = kept_from(config, days)
    if moment is None:
        return Expired()
    before = f"{moment:%Y-%m-%d}"
    old = [f for table in _EXPIRING for f in lake.files(table) if partition_date(f) < before]
    _remove(lake, old, "inspections", bar)
    images, results = _old_images(config, before)
    # First the images: one without its result would be inspected again.
    _remove(Lake(config, config.inbox), images, "images", bar)
    _remove(Lake(config, config.results), results, "masks and maps", bar)
    return Expired(before, len(old), len(images), len(results))


def kept_from(config: Settings, days: float = RETENTION_DAYS) -> datetime | None:
    """Time from which inspections and images must stay; None before any inspection.

    Raises:
        OSError: S3 did not answer.
        ValueError: `days` are not more than `RETURN_DAYS`, or promotion did not sign a model.
    """
    if days <= RETURN_DAYS:
        raise ValueError(f"retention of {days:g} days: parts come back for {RETURN_DAYS} days")
    files = Lake(config).files(INSPECTIONS_TABLE)
    if not files:
        return None
    newest = datetime.fromisoformat(max(map(partition_date, files))).replace(tzinfo=UTC)
    needed = [newest - timedelta(days=days)]
    for role in (CHAMPION, CHALLENGER):
        with suppress(FileNotFoundError):
            card = read_model(get_served(config, DESIGN, role)).card
            # One that has learned from no image of the line is measured on those that are there.
            if card.trained_until is not None:
                needed.append(card.trained_until - timedelta(days=RETURN_DAYS))
    return min(needed)


def _old_images(config: Settings, before: str) -> tuple[list[str], list[str]]:
    """Paths, with the bucket, of images that were inspected before a day, and of results.

    The results are those of these images, and of images that are gone already.
    """
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    found = {key: at for key, at in objects(results) if _date(at) < before}
    done = {key.removesuffix(".json"): at for key, at in found.items() if key.endswith(".json")}
    images, kept = [], set()
    for key, modified in objects(inbox):
        stem = _stem(key)
        # A result that is older than its image is of the image before it.
        if done.get(stem, -1.0) >= modified and _date(modified) < before:
            images.append(f"{inbox.bucket}/{key}")
        else:
            kept.add(stem)
    gone = [f"{results.bucket}/{key}" for key in found if _of_result(key) not in kept]
    return sorted(images), sorted(gone)


def _stem(key: str) -> str:
    try:
        return result_stem(key)
    except ValueError:
        return ""  # it is among the dead letters


def _of_result(key: str) -> str:
    """The image's stem of a result's key.

    >>> _of_result("a/1/lot/7.mask.png"), _of_result("a/1/lot/x.y.json")
    ('a/1/lot/7', 'a/1/lot/x.y')
    """
    for ending in (".json", ".mask.png", ".map.png"):
        if key.endswith(ending):
            return key.removesuffix(ending)
    return key


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _remove(lake: Lake, paths: list[str], what: str, bar: ProgressBar) -> None:
    if not paths:
        return
    with bar(f"removing expired {what}") as step:
        for number, path in enumerate(paths, start=1):
            lake.delete(path)
            step(number, len(paths))
