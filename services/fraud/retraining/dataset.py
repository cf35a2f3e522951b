"""Labelled transactions as training data: features as of their point in time, split by time.

The split is by time, never at random: fit on the earlier days, choose the threshold on the last
week whose dispute window has closed. A random split would show the model other transactions of the
campaigns it is validated on.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.reading import embedding_values
from features.spec import DAY
from features.state_log import stack
from features.store import graph_service, open_store
from services.fraud.features import embeddings
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.rebuild import unfinished
from services.fraud.features.request import cart_sets, entity_frame
from services.fraud.features.states import EMBEDDINGS, FEATURE_SET, FEATURES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import WEIGHT
from services.fraud.ingestion.outcomes import SettledRows, labelled_transactions
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
    """

    train: Examples
    validation: Examples
    fingerprint: str
    until: float
    time: Floats
    carts: tuple[Floats32, Floats32] | None = None


def training_rows(lake: Lake) -> pa.Table:
    """Labelled transactions after the warm-up, without the days held out for the gate.

    Each feed has its own warm-up and its own days for the gate. A feed with less than
    `_MIN_FEED_SHARE` of the rows is left out: its time must not decide how the others are split.

    Raises:
        NotEnoughData: too few days between the warm-up and open disputes.
        ImplausibleLabels: nearly all of the labels are frauds, or none.
    """
    settled = labelled_transactions(lake, 0.0)
    if settled is None or not len(settled):
        raise NotEnoughData("the lake holds no labelled transactions yet")
    settled = _of_large_feeds(settled)
    since, until = settled.begin + WARM_UP_DAYS * DAY, settled.until - GATE_DAYS * DAY
    days = max(float((until - since).max()), 0.0) / DAY
    if days < _MIN_DAYS:
        raise NotEnoughData(
            f"{days:.0f} labelled days after {WARM_UP_DAYS} days of warm-up; {_MIN_DAYS} are needed"
        )
    time = settled.time
    rows = settled.select((time >= since) & (time < until)).rows
    check_mix(rows["fraud"].to_numpy(), "labelled transactions", "frauds", settled.fraud_share)
    return rows


def _of_large_feeds(settled: SettledRows) -> SettledRows:
    """The rows of feeds that have enough of them."""
    # Rows of one feed have one begin and one end.
    _, feed, sizes = np.unique(
        np.column_stack([settled.begin, settled.until]),
        axis=0, return_inverse=True, return_counts=True,
    )  # fmt: skip
    is_large = sizes >= _MIN_FEED_SHARE * len(settled)
    if is_large.all():
        return settled
    log.warning("%d small feeds are not trained on", int((~is_large).sum()))
    return settled.select(is_large[feed.ravel()])


def feature_names(candidate: type[Candidate]) -> tuple[str, ...]:
    """Columns of a candidate's feature vectors."""
    return FEATURES if "graph" in candidate.groups else TABULAR


def examples(
    rows: pa.Table,
    vectors: Floats,
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
    return Examples(
        vectors=np.ascontiguousarray(vectors[:, columns]),
        positive=rows["fraud"].to_numpy(),
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        sets={"items": cart_sets(rows)} if "items" in candidate.sets else {},
        weight=rows[WEIGHT].to_numpy() if WEIGHT in rows.column_names else None,
    )


def point_in_time(settings: Settings, rows: pa.Table, graph: bool = False) -> Floats:
    """Feature vectors as of each transaction, from Feast's `get_historical_features`.

    Args:
        settings: Where the offline store is.
        rows: N transactions.
        graph: Whether to read the graph embeddings too.

    Returns:
        (N, len(FEATURES)) with embeddings, else (N, len(TABULAR)).

    Raises:
        ValueError: the states of this feature set are not rebuilt yet.
    """
    if states := unfinished(settings):
        raise ValueError(f"{', '.join(states)} must be rebuilt first: `whiteboard rebuild fraud`")
    store = open_store(settings, FEATURE_SET)
    service = store.get_feature_service(graph_service(FEATURE_SET) if graph else FEATURE_SET.design)
    frame = store.get_historical_features(entity_frame(rows), service).to_df()
    return frame[list(FEATURES if graph else TABULAR)].to_numpy(dtype=np.float64)


def point_in_time_embeddings(settings: Settings, rows: pa.Table) -> Floats:
    """The parties' embeddings as of each transaction, from Feast, (N, len(EMBEDDING_FEATURES))."""
    store = open_store(settings, FEATURE_SET)
    wanted = [f"{view.name}:{view.name}" for view in EMBEDDINGS]
    frame = store.get_historical_features(entity_frame(rows), wanted).to_df()
    return np.hstack([embedding_values(stack(frame[view.name], view.width)) for view in EMBEDDINGS])


def training_data(
    settings: Settings,
    lake: Lake,
    candidate: type[Candidate],
    seed: int,
    bar: ProgressBar,
    read: PointInTime = point_in_time,
) -> TrainingData:
    """Labelled examples as of their point in time, split by time.

    For a graph candidate the encoder is trained first if there is none.

    Args:
        read: Returns the tabular features of rows. At a first start the backfill has just computed
            them: Feast would join the same bytes in 27 s.
    """
    rows = training_rows(lake)
    time = event_times(rows)
    is_late = time >= time.max() - VALIDATION_DAYS * DAY
    with bar("reading point-in-time features"):
        vectors = read(settings, rows)
    if "graph" in candidate.groups:
        days = (float(time.min()), float(time[~is_late].max()))
        seqs, fraud = rows["seq"].to_numpy()[~is_late], rows["fraud"].to_numpy()[~is_late]
        embeddings.ensure(settings, lake, days, (seqs, fraud, vectors[~is_late]), seed, bar)
        with bar("reading the embeddings"):
            vectors = np.hstack([vectors, point_in_time_embeddings(settings, rows)])
    early, late = rows.filter(pa.array(~is_late)), rows.filter(pa.array(is_late))
    return TrainingData(
        train=examples(early, vectors[~is_late], candidate),
        validation=examples(late, vectors[is_late], candidate),
        fingerprint=fingerprint(vectors, rows),
        until=float(time.max()),
        time=np.concatenate([time[~is_late], time[is_late]]),
        carts=(cart_sets(early), cart_sets(late)),
    )


def fingerprint(vectors: Floats, rows: pa.Table) -> str:
    """Hash of a set of examples, for the model card."""
    digest = hashlib.sha256(vectors.tobytes() + rows["fraud"].to_numpy().tobytes())
    return digest.hexdigest()[:16]
