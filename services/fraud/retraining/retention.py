"""Retention: which logged decisions may go, and which something still needs.

Transactions and labels stay: every state is rebuilt from them. A decision's vector is the largest
row of the lake, and after the outcome is known and a model has learned from it, it is only history.
It expires `RETENTION_DAYS` after its day, by the watermark of the feed that is farthest behind, but
never while something needs it:

- an open dispute: its window is far shorter than the retention;
- the gate and the retraining read the decisions since champion and challenger were trained, and a
  month before for the drift reference;
- the audit compares the decisions that are there, and needs only events for that.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from features.spec import DAY
from monitoring.drift_table import REASONS, drift_table
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    VERDICTS_TABLE,
)
from services.fraud.ingestion.watermark import FeedTimes
from services.fraud.model import read_model
from services.fraud.problem import DESIGN, DISPUTE_WINDOW_DAYS
from services.fraud.retraining.plan import REFERENCE_DAYS
from services.platform.models.names import CHALLENGER, CHAMPION
from services.platform.models.served_file import get_served
from services.platform.progress import ProgressBar
from services.platform.retraining.shadow import shadow_table
from services.platform.settings import Settings
from services.platform.storage.lake import Lake, partition_date
from services.platform.storage.sequences import SequenceReader

RETENTION_DAYS = 180
_EXPIRING = (
    DECISIONS_TABLE,
    VERDICTS_TABLE,
    shadow_table(DESIGN),
    drift_table(DESIGN),
    drift_table(DESIGN, REASONS),
)
_RANGE = 500_000


@dataclass(frozen=True)
class Expired:
    """What a run of the retention removed.

    Attributes:
        before: Days before this one have expired, YYYY-MM-DD; empty for none yet.
        files: Files removed.
    """

    before: str = ""
    files: int = 0


def expire(config: Settings, bar: ProgressBar, days: float = RETENTION_DAYS) -> Expired:
    """Remove whole days of decisions, verdicts, shadow scores and drift windows without a use.

    Raises:
        OSError: S3 did not answer; run it again.
        ValueError: the retention is shorter than the dispute window.
    """
    lake = Lake(config)
    moment = kept_from(config, days)
    if moment is None:
        return Expired()
    before = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
    old = [f for table in _EXPIRING for f in lake.files(table) if partition_date(f) < before]
    with bar("removing expired decisions") as step:
        for number, file in enumerate(old, start=1):
            lake.delete(file)
            step(number, len(old))
    return Expired(before, len(old))


def kept_from(config: Settings, days: float = RETENTION_DAYS) -> float | None:
    """Event time from which decisions must stay, seconds; None while no feed has a watermark.

    Raises:
        OSError: S3 did not answer.
        ValueError: `days` are fewer than the dispute window, or promotion did not sign a model.
    """
    if days <= DISPUTE_WINDOW_DAYS:
        raise ValueError(
            f"retention of {days:g} days: disputes are open for {DISPUTE_WINDOW_DAYS} days"
        )
    clocks = _times(Lake(config)).clocks().values()
    if not clocks:
        return None
    needed = [min(clock.watermark for clock in clocks) - days * DAY]
    for role in (CHAMPION, CHALLENGER):
        with suppress(FileNotFoundError):
            model = read_model(get_served(config, DESIGN, role))
            needed.append(model.card.unseen_since - REFERENCE_DAYS * DAY)
    return min(needed)


def _times(lake: Lake) -> FeedTimes:
    """The event times of all decisions."""
    found = FeedTimes()
    for part in SequenceReader(
        lake, DECISIONS_TABLE, ["event_time", "feed"], DECISION_SCHEMA
    ).parts(_RANGE):
        found.add(part)
    return found
