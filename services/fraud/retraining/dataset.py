"""Labelled transactions as training data: features as of their point in time, split by time.

The split is by time, never at random: fit on the earlier days, choose the threshold on the last
week whose dispute window has closed. A random split would show the model other transactions of the
campaigns it is validated on.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from features.spec import DAY
from features.state_log import stack
from features.store import graph_service, open_store
from services.fraud.features import embeddings
from services.fraud.features.kernel import embedding_values
from services.fraud.features.request import cart_sets, entity_frame
from services.fraud.features.states import EMBEDDINGS, FEATURES, SPEC, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.platform.models.candidates import Candidate, Examples
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats

WARM_UP_DAYS = 10
VALIDATION_DAYS = 7
# The newest labelled days are held out for the gate.
GATE_DAYS = 3
_MIN_DAYS = VALIDATION_DAYS + 5


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
    """

    train: Examples
    validation: Examples
    fingerprint: str
    until: float
    time: Floats


def labelled_rows(lake: Lake, since: float) -> pa.Table | None:
    """Transactions after `since` whose dispute window has closed, with their outcome as `fraud`.

    Args:
        lake: Where transactions and labels are stored.
        since: Event time, seconds.

    Returns:
        The transactions' columns and `fraud`; None while there are no labels.
    """
    transactions = lake.read(TRANSACTIONS_TABLE)
    labels = lake.read(LABELS_TABLE, ["transaction_id", "fraud"])
    if transactions is None or labels is None:
        return None
    time = event_times(transactions)
    until = time.max() - DISPUTE_WINDOW_DAYS * DAY
    rows = transactions.filter(pa.array((time > since) & (time < until)))
    where = pc.index_in(rows["transaction_id"], labels["transaction_id"])
    return rows.append_column("fraud", labels["fraud"].take(where)).filter(pc.is_valid(where))


def training_rows(lake: Lake) -> pa.Table:
    """Labelled transactions after the warm-up, without the days held out for the gate.

    Raises:
        NotEnoughData: too few days between the warm-up and open disputes.
    """
    rows = labelled_rows(lake, 0.0)
    if rows is None or not len(rows):
        raise NotEnoughData("the lake holds no labelled transactions yet")
    time = event_times(rows)
    since, until = time.min() + WARM_UP_DAYS * DAY, time.max() - GATE_DAYS * DAY
    if until - since < _MIN_DAYS * DAY:
        raise NotEnoughData(
            f"{max(until - since, 0) / DAY:.0f} labelled days after {WARM_UP_DAYS} days of "
            f"warm-up; {_MIN_DAYS} are needed"
        )
    return rows.filter(pa.array((time >= since) & (time < until)))


def feature_names(candidate: type[Candidate]) -> tuple[str, ...]:
    """Columns of a candidate's feature vectors."""
    return FEATURES if "graph" in candidate.groups else TABULAR


def examples(rows: pa.Table, vectors: Floats, candidate: type[Candidate]) -> Examples:
    """Labelled rows as examples for a candidate.

    Args:
        rows: N transactions with their outcome as `fraud`.
        vectors: (N, F) features; the first columns are those of the candidate.
        candidate: The class of the candidate.
    """
    return Examples(
        vectors=np.ascontiguousarray(vectors[:, : len(feature_names(candidate))]),
        positive=rows["fraud"].to_numpy(),
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        sets={"items": cart_sets(rows)} if "items" in candidate.sets else {},
    )


def point_in_time(settings: Settings, rows: pa.Table, graph: bool) -> Floats:
    """Feature vectors as of each transaction, from Feast's `get_historical_features`.

    Args:
        settings: Where the offline store is.
        rows: N transactions.
        graph: Whether to read the graph embeddings too.

    Returns:
        (N, len(FEATURES)) with embeddings, else (N, len(TABULAR)).
    """
    store = open_store(settings, SPEC)
    service = store.get_feature_service(graph_service(SPEC) if graph else SPEC.design)
    frame = store.get_historical_features(entity_frame(rows), service).to_df()
    return frame[list(FEATURES if graph else TABULAR)].to_numpy(dtype=np.float64)


def point_in_time_embeddings(settings: Settings, rows: pa.Table) -> Floats:
    """The parties' embeddings as of each transaction, from Feast, (N, len(EMBEDDING_FEATURES))."""
    store = open_store(settings, SPEC)
    wanted = [f"{view.name}:{view.name}" for view in EMBEDDINGS]
    frame = store.get_historical_features(entity_frame(rows), wanted).to_df()
    return np.hstack([embedding_values(stack(frame[view.name], view.width)) for view in EMBEDDINGS])


def training_data(
    settings: Settings, lake: Lake, candidate: type[Candidate], seed: int, bar: ProgressBar
) -> TrainingData:
    """Labelled examples as of their point in time, split by time.

    For a graph candidate the encoder is trained first if there is none.
    """
    rows = training_rows(lake)
    time = event_times(rows)
    is_late = time >= time.max() - VALIDATION_DAYS * DAY
    with bar("reading point-in-time features"):
        vectors = point_in_time(settings, rows, graph=False)
    if "graph" in candidate.groups:
        days = (float(time.min()), float(time[~is_late].max()))
        seqs, fraud = rows["seq"].to_numpy()[~is_late], rows["fraud"].to_numpy()[~is_late]
        embeddings.ensure(settings, lake, days, (seqs, fraud, vectors[~is_late]), seed, bar)
        with bar("reading the embeddings"):
            vectors = np.hstack([vectors, point_in_time_embeddings(settings, rows)])
    return TrainingData(
        train=examples(rows.filter(pa.array(~is_late)), vectors[~is_late], candidate),
        validation=examples(rows.filter(pa.array(is_late)), vectors[is_late], candidate),
        fingerprint=fingerprint(vectors, rows),
        until=float(time.max()),
        time=np.concatenate([time[~is_late], time[is_late]]),
    )


def fingerprint(vectors: Floats, rows: pa.Table) -> str:
    """Hash of a set of examples, for the model card."""
    digest = hashlib.sha256(vectors.tobytes() + rows["fraud"].to_numpy().tobytes())
    return digest.hexdigest()[:16]
