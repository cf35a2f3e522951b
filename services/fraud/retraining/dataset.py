"""Labelled transactions as training data: features as of their point in time, split by time.

The split is by time, never at random: fit on the earlier days, choose the threshold on the last
week whose dispute window has closed. A random split would show the model other transactions of the
campaigns it is validated on.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from features.spec import DAY
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.request import cart_sets
from services.fraud.features.states import FEATURE_SET, FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import WEIGHT
from services.fraud.ingestion.outcomes import SettledRows, settled_until
from services.fraud.ingestion.watermark import FeedClock, feed_codes
from services.fraud.retraining.labelled import LabelledTransactions, labelled_transactions
from services.platform.memory import release_memory
from services.platform.models.candidates import Candidate, Examples
from services.platform.progress import ProgressBar
from services.platform.retraining.spec import check_mix
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats, Floats32

VALIDATION_DAYS = 7
# The newest labelled days are held out for the gate.
GATE_DAYS = 3
_MIN_DAYS = VALIDATION_DAYS + 5
_MIN_FEED_SHARE = 0.01

log = logging.getLogger(__name__)

# (settings, N rows) to their features, (N, len(TABULAR)).
PointInTime = Callable[[Settings, pa.Table], Floats]


class NotEnoughData(ValueError):
    """Not enough labelled days to train on."""


@dataclass(frozen=True)
class TrainingData:
    """Training and validation examples.

    Attributes:
        train: The examples to fit.
        validation: The later examples, for choosing the threshold.
        fingerprint: Hash of all examples.
        until: Event time of the newest example, seconds.
        time: (N,) event times, seconds: training examples, then validation examples.
        carts: The items of the training and of the validation examples, for the fallback; None if
            it is not trained on them.
        limits: What was left out of training, for the card; empty if nothing was.
    """

    train: Examples
    validation: Examples
    fingerprint: str
    until: float
    time: Floats
    carts: tuple[Floats32, Floats32] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


def training_rows(lake: Lake) -> LabelledTransactions:
    """Labelled transactions after the warm-up, without the days held out for the gate.

    Each feed has its own warm-up and its own days for the gate. A feed with less than
    `_MIN_FEED_SHARE` of the rows is left out: its time must not decide how the others are split.

    Raises:
        NotEnoughData: too few days between the warm-up and open disputes.
        ImplausibleLabels: nearly all of the labels are frauds, or none.
    """
    found = labelled_transactions(lake, training_window)
    if found is None or not found.settled.clocks:
        raise NotEnoughData("the lake holds no labelled transactions yet")
    settled = _of_large_feeds(found.settled)
    days = _longest(settled.clocks.values())
    if days < _MIN_DAYS:
        raise NotEnoughData(
            f"{days:.0f} labelled days after {WARM_UP_DAYS} days of warm-up; {_MIN_DAYS} are needed"
        )
    if not len(settled):
        raise NotEnoughData("the lake holds no labelled transactions yet")
    check_mix(
        settled.rows["fraud"].to_numpy(),
        "labelled transactions",
        "frauds",
        settled.fraud_share,
        settled.counted,
    )
    return replace(found, settled=settled)


def training_window(clock: FeedClock) -> tuple[float, float]:
    """Event times [begin, end), seconds, of a feed's transactions to train on."""
    return clock.begin + WARM_UP_DAYS * DAY, settled_until(clock) - GATE_DAYS * DAY


def _longest(clocks: Iterable[FeedClock]) -> float:
    """The length of the longest of the feeds' windows, days."""
    windows = map(training_window, clocks)
    return max((max(end - begin, 0.0) for begin, end in windows), default=0.0) / DAY


def _of_large_feeds(settled: SettledRows) -> SettledRows:
    """The rows and the clocks of feeds that have enough of them."""
    if not len(settled):
        return settled
    codes, names = feed_codes(settled.rows)
    sizes = np.bincount(codes, settled.counted, minlength=len(names))
    is_large = sizes >= _MIN_FEED_SHARE * settled.counted.sum()
    large = {name for name, chosen in zip(names.to_pylist(), is_large, strict=True) if chosen}
    clocks = {name: clock for name, clock in settled.clocks.items() if name in large}
    if is_large.all():
        return replace(settled, clocks=clocks)
    log.warning("%d small feeds are not trained on", int((~is_large).sum()))
    return replace(settled.select(is_large[codes]), clocks=clocks)


def feature_names(candidate: type[Candidate]) -> tuple[str, ...]:
    """Columns of a candidate's feature vectors."""
    return FEATURES if "graph" in candidate.groups else TABULAR


def examples(
    rows: pa.Table,
    vectors: Floats | Floats32,
    candidate: type[Candidate],
    features: tuple[str, ...] = (),
) -> Examples:
    """Labelled rows as examples for a candidate.

    Args:
        rows: N transactions with their outcome as `fraud`, and what it stands for as `weight`;
            without that column, as where all transactions have labels, each counts once.
        vectors: (N, len(FEATURES)) features, or the tabular ones only.
        candidate: The class of the candidate.
        features: The features of the candidate, those of the present feature set if empty.
    """
    columns = FEATURE_SET.columns(features or feature_names(candidate))
    is_all = np.array_equal(columns, np.arange(vectors.shape[1]))
    return Examples(
        vectors=np.ascontiguousarray(vectors if is_all else vectors[:, columns]),
        positive=rows["fraud"].to_numpy(),
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        sets={"items": cart_sets(rows)} if "items" in candidate.sets else {},
        weight=rows[WEIGHT].to_numpy() if WEIGHT in rows.column_names else None,
    )


def training_data(
    settings: Settings,
    lake: Lake,
    candidate: type[Candidate],
    seed: int,
    bar: ProgressBar,
    read: PointInTime | None = None,
) -> TrainingData:
    """Labelled examples as of their point in time, split by time.

    For a graph candidate the encoder is trained first if there is none.

    Args:
        read: Returns the tabular features of rows; None: Feast joins them. At a first start the
            backfill has just computed the same bytes, and Feast would take 27 s.
    """
    found = training_rows(lake)
    rows, early = _early_first(found.settled.rows)
    limits = found.limits
    del found
    # What was read is several times what is kept.
    release_memory()
    vectors = _vectors(settings, lake, rows, early, candidate, seed, bar, read or _joined)
    release_memory()
    # Slices, because copies of the vectors are what training needs most memory for.
    first, last = rows.slice(0, early), rows.slice(early)
    time = event_times(rows)
    return TrainingData(
        train=examples(first, vectors[:early], candidate),
        validation=examples(last, vectors[early:], candidate),
        fingerprint=fingerprint(vectors, rows),
        until=float(time.max()),
        time=time,
        carts=(cart_sets(first), cart_sets(last)),
        limits=limits,
    )


def _early_first(rows: pa.Table) -> tuple[pa.Table, int]:
    """Rows with those to fit before those to validate on, and how many are to fit."""
    time = event_times(rows)
    is_late = time >= time.max() - VALIDATION_DAYS * DAY
    parts = [rows.filter(pa.array(~is_late)), rows.filter(pa.array(is_late))]
    return pa.concat_tables(parts), len(parts[0])


def _joined(settings: Settings, rows: pa.Table) -> Floats:
    # Imported here because Feast takes seconds to import, and a first start does without it.
    from services.fraud.retraining.point_in_time import point_in_time

    return point_in_time(settings, rows)


def _vectors(
    settings: Settings,
    lake: Lake,
    rows: pa.Table,
    early: int,
    candidate: type[Candidate],
    seed: int,
    bar: ProgressBar,
    read: PointInTime,
) -> Floats:
    """(N, F) features of a candidate; of a graph's, with an encoder trained on the early rows."""
    with bar("reading point-in-time features"):
        tabular = read(settings, rows)
    if "graph" not in candidate.groups:
        return tabular
    # Imported here because PyTorch Geometric takes seconds to import, and only graphs need it.
    from services.fraud.features import embeddings
    from services.fraud.retraining.point_in_time import point_in_time_embeddings

    known = rows["seq"].to_numpy()[:early], rows["fraud"].to_numpy()[:early], tabular[:early]
    time = event_times(rows)[:early]
    embeddings.ensure(settings, lake, (float(time.min()), float(time.max())), known, seed, bar)
    del known
    release_memory()
    vectors = np.empty((len(rows), len(FEATURES)))
    vectors[:, : len(TABULAR)] = tabular
    del tabular
    with bar("reading the embeddings"):
        point_in_time_embeddings(settings, rows, vectors[:, len(TABULAR) :])
    return vectors


def fingerprint(vectors: Floats, rows: pa.Table) -> str:
    """Hash of a set of examples, for the model card."""
    digest = hashlib.sha256(np.ascontiguousarray(vectors).data)
    digest.update(rows["fraud"].to_numpy().tobytes())
    return digest.hexdigest()[:16]
