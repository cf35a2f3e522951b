"""A whole backfill by either engine: fold, compare if asked, offer the rows; with its figures."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from services.fraud.features.lake_fold import Folded, ShardLoad, fold_here
from services.fraud.features.rebuild import rebuild
from services.fraud.features.spark.backfill import fold_on_spark
from services.fraud.features.spark.comparison import Compared, compare
from services.fraud.features.spark.request import SparkRequest, check
from services.fraud.features.spark.usage import measured
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake


@dataclass
class Backfilled:
    """What a backfill did.

    Attributes:
        engine: "embedded" or "spark".
        master: Of Spark, "" without it.
        events: Events folded.
        entities: By state name, how many entities have a row.
        seconds: Time of the fold alone, without comparison and offer.
        cpu_seconds: Its processor time, of all processes on this machine.
        peak_mb: Peak of the memory of this process and its children during the fold.
        shards: By entity type, the load of Spark's shards.
        compared: What was compared with a fold in this process; None if not asked for.
    """

    engine: str
    master: str
    events: int
    entities: dict[str, int]
    seconds: float
    cpu_seconds: float
    peak_mb: int
    shards: Mapping[str, ShardLoad] = field(default_factory=dict)
    compared: Compared | None = None

    @property
    def mismatches(self) -> int | None:
        """Rows that differ; None if they were not compared."""
        return None if self.compared is None else self.compared.mismatches

    def as_json(self) -> dict[str, Any]:
        """The figures by name."""
        return {**asdict(self), "mismatches": self.mismatches}


class Mismatch(Exception):
    """The rows differ from a fold in this process."""


def backfill(
    config: Settings, request: SparkRequest | None, with_comparison: bool, wait: bool,
    bar: ProgressBar,
) -> Backfilled:  # fmt: skip
    """Fold the lake's events and offer the rows; rows that differ in a comparison are not offered.

    Args:
        config: Where the engines run.
        request: How Spark folds; None: this process does.
        with_comparison: Whether to fold here again, and compare.
        wait: See `rebuild`.
        bar: Opens a progress bar with a title.

    Raises:
        ValueError, ConnectionError, OSError, redis.RedisError: as `check`, `rebuild` and
            `fold_on_spark`.
    """
    if request is not None:
        check(request)
    found = Backfilled("embedded" if request is None else "spark",
                       request.master if request else "", 0, {}, 0.0, 0.0, 0)  # fmt: skip
    engine = fold_here if request is None else partial(fold_on_spark, config, request)
    with_log = request is None or request.state_log

    def fold(lake: Lake, last_seq: int, bar: ProgressBar) -> Folded:
        begin = time.monotonic()
        with measured() as used:
            folded = engine(lake, last_seq, bar)
        found.cpu_seconds = round(used.cpu_s, 1)
        found.events, found.entities = folded.events, folded.entities
        found.shards = folded.shards
        found.seconds, found.peak_mb = round(time.monotonic() - begin, 1), round(used.peak_mb)
        if with_comparison:
            with bar("comparing with a fold in this process") as step:
                found.compared = compare(lake, last_seq, folded, with_log, step)
            if found.mismatches:
                lake.remove([folded.offer.folder])
                raise Mismatch
        return folded

    with suppress(Mismatch):
        rebuild(config, bar, wait, fold)
    return found
