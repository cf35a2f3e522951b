"""Train a candidate on history: point-in-time rows, a threshold by cost, a registry entry.

The split is by time, never at random: fit on the earlier days, choose the threshold on the last
week whose dispute window has closed. A random split would let the model see a campaign's other
transactions.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import compute as pc

from features.spec import DAY, TIME_COLUMN, Floats
from features.state_log import stack
from features.store import graph_service, open_store
from monitoring.reference import Reference
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embeddings as places
from services.fraud.features.states import (
    FEATURES,
    GRAPH,
    ITEMS,
    OWN,
    SETS,
    SPEC,
    TABULAR,
    bucket,
    place_values,
)
from services.fraud.ingestion.events import ENTITIES, seconds
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.monitoring.drift import reference
from services.fraud.problem import CONF, DISPUTE_WINDOW_DAYS, Kpi
from services.platform.evaluation.metrics import figures, metrics
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import Floats32, ModelCard
from services.platform.models.registry import (
    Registry,
    Trained,
    Training,
    store_model,
    store_reference,
)
from services.platform.progress import Bar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

WARM_UP_DAYS = 10
VALIDATION_DAYS = 7
# The newest labelled days are nobody's to train on: the gate judges by them.
GATE_DAYS = 3
_LEAST_DAYS = VALIDATION_DAYS + 5


class TooLittleHistory(ValueError):
    """Not enough labelled days to train on."""


@dataclass(frozen=True)
class Split:
    """Training and validation examples.

    Attributes:
        fingerprint: Of all of them. until: Event time of the newest, seconds.
        time: (N,) event times of the training examples and then of the validation ones.
    """

    train: Examples
    validation: Examples
    fingerprint: str
    until: float
    time: Floats


def labelled_rows(lake: Lake, since: float) -> pa.Table | None:
    """Transactions after `since` (event time, seconds) whose dispute window has closed.

    Their outcome is column `fraud`. None before there are labels.
    """
    transactions = lake.read(TRANSACTIONS_TABLE)
    labels = lake.read(LABELS_TABLE, ["transaction_id", "fraud"])
    if transactions is None or labels is None:
        return None
    time = times(transactions)
    until = time.max() - DISPUTE_WINDOW_DAYS * DAY
    rows = transactions.filter(pa.array((time > since) & (time < until)))
    where = pc.index_in(rows["transaction_id"], labels["transaction_id"])
    return rows.append_column("fraud", labels["fraud"].take(where)).filter(pc.is_valid(where))


def training_rows(lake: Lake) -> pa.Table:
    """Labelled transactions past the warm-up, without the days that belong to the gate.

    Raises:
        TooLittleHistory: there are not enough days between warm-up and open disputes.
    """
    rows = labelled_rows(lake, 0.0)
    if rows is None or not len(rows):
        raise TooLittleHistory("the lake holds no labelled transactions yet")
    time = times(rows)
    since, until = time.min() + WARM_UP_DAYS * DAY, time.max() - GATE_DAYS * DAY
    if until - since < _LEAST_DAYS * DAY:
        raise TooLittleHistory(
            f"{max(until - since, 0) / DAY:.0f} labelled days after {WARM_UP_DAYS} days of "
            f"warm-up; {_LEAST_DAYS} are needed"
        )
    return rows.filter(pa.array((time >= since) & (time < until)))


def entity_frame(rows: pa.Table) -> pd.DataFrame:
    """What Feast is asked with: the entities, the time, the sequence, and the request's own."""
    frame = rows.select([*ENTITIES, "seq"]).to_pandas()
    frame[TIME_COLUMN] = rows["event_time"].to_pandas()
    cart = rows["cart"].combine_chunks()
    items = pc.list_value_length(cart).to_numpy().astype(np.float64)
    prices = pc.list_flatten(cart).field("price_minor").to_numpy()
    highest = np.full(len(items), np.nan)
    filled = items > 0
    if filled.any():
        begins = np.concatenate([[0], np.cumsum(items[filled])[:-1]]).astype(np.int64)
        highest[filled] = np.maximum.reduceat(prices, begins) / 100.0
    frame[OWN[0]] = times(rows)
    frame[OWN[1]] = rows["amount_minor"].to_numpy() / 100.0
    frame[OWN[2]] = np.where(filled, items, np.nan)
    frame[OWN[3]] = highest
    return frame


def own_frame(frame: pd.DataFrame) -> Floats:
    """The request's own columns of an entity frame, (N, len(OWN))."""
    return np.ascontiguousarray(frame[list(OWN)].to_numpy(dtype=np.float64))


def feature_names(candidate: type[Candidate]) -> tuple[str, ...]:
    """Columns of the vectors a candidate is given."""
    return FEATURES if "graph" in candidate.groups else TABULAR


def cart_sets(rows: pa.Table) -> Floats32:
    """The carts of N transactions as sets, (N, M, len(ITEMS)), filled up with bucket -1."""
    cart = rows["cart"].combine_chunks()
    count = pc.list_value_length(cart).to_numpy()
    items = pc.list_flatten(cart)
    owner = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    coded = pc.dictionary_encode(items.field("category"))
    buckets = np.array([bucket(name) for name in coded.dictionary.to_pylist()], dtype=np.float32)
    sets = np.zeros((len(count), max(int(count.max(initial=1)), 1), len(ITEMS)), dtype=np.float32)
    sets[..., 0] = -1.0
    if len(owner):
        sets[owner, place, 0] = buckets[coded.indices.to_numpy()]
        sets[owner, place, 1] = items.field("price_minor").to_numpy() / 100.0
    return sets


def examples(rows: pa.Table, vectors: Floats, candidate: type[Candidate]) -> Examples:
    """Labelled rows as a candidate is given them.

    Args:
        rows: Transactions with their outcome as `fraud`. vectors: (N, len(FEATURES)) or less.
    """
    return Examples(
        vectors=np.ascontiguousarray(vectors[:, : len(feature_names(candidate))]),
        positive=rows["fraud"].to_numpy(),
        amount=rows["amount_minor"].to_numpy().astype(np.float64),
        sets={"items": cart_sets(rows)} if "items" in candidate.sets else {},
    )


def times(rows: pa.Table) -> Floats:
    """Event times, seconds."""
    return seconds(rows["event_time"].cast(pa.int64()).to_numpy())


def point_in_time(settings: Settings, rows: pa.Table, graph: bool) -> Floats:
    """Vectors through Feast's `get_historical_features`, of all features or the tabular alone."""
    store = open_store(settings, SPEC)
    service = store.get_feature_service(graph_service(SPEC) if graph else SPEC.design)
    frame = store.get_historical_features(entity_frame(rows), service).to_df()
    return frame[list(FEATURES if graph else TABULAR)].to_numpy(dtype=np.float64)


def placed(settings: Settings, rows: pa.Table) -> Floats:
    """The parties' places as of their point in time, through Feast, (N, len(PLACES))."""
    store = open_store(settings, SPEC)
    wanted = [f"{view.name}:{view.name}" for view in GRAPH]
    frame = store.get_historical_features(entity_frame(rows), wanted).to_df()
    return np.hstack([place_values(stack(frame[view.name], view.width)) for view in GRAPH])


def split(settings: Settings, lake: Lake, candidate: type[Candidate], seed: int, bar: Bar) -> Split:
    """Labelled examples as of their point in time, split by time."""
    rows = training_rows(lake)
    time = times(rows)
    late = time >= time.max() - VALIDATION_DAYS * DAY
    with bar("reading point-in-time features"):
        vectors = point_in_time(settings, rows, graph=False)
    if "graph" in candidate.groups:
        days = (float(time.min()), float(time[~late].max()))
        seqs, fraud = rows["seq"].to_numpy()[~late], rows["fraud"].to_numpy()[~late]
        places.ensure(settings, lake, days, (seqs, fraud, vectors[~late]), seed, bar)
        with bar("reading the places"):
            vectors = np.hstack([vectors, placed(settings, rows)])
    return Split(
        train=examples(rows.filter(pa.array(~late)), vectors[~late], candidate),
        validation=examples(rows.filter(pa.array(late)), vectors[late], candidate),
        fingerprint=fingerprint(vectors, rows),
        until=float(time.max()),
        time=np.concatenate([time[~late], time[late]]),
    )


def fingerprint(vectors: Floats, rows: pa.Table) -> str:
    """What stands for a set of examples on a model's card."""
    digest = hashlib.sha256(vectors.tobytes() + rows["fraud"].to_numpy().tobytes())
    return digest.hexdigest()[:16]


def hyperparameters(name: str) -> dict[str, object]:
    """A candidate's `conf/<name>.yaml`, empty without one."""
    path = CONF / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else {}


def new_candidate(name: str) -> Candidate:
    """An untrained candidate. KeyError lists those there are."""
    kind = CANDIDATES.get(name)
    return kind(hyperparameters(name), feature_names(kind))


def threshold_of(candidate: Candidate, validation: Examples) -> float:
    """The threshold of least cost."""
    score = candidate.score(validation)
    return Kpi().best_threshold(score, validation.positive, validation.amount)


def train(settings: Settings, name: str, seed: int, bar: Bar) -> Trained:
    """Train a candidate on the lake's history and register it. It serves nobody yet.

    Args:
        bar: Opens a progress bar with a title.

    Raises:
        KeyError: no such candidate. TooLittleHistory: see `training_rows`.
    """
    candidate = new_candidate(name)
    begin = perf_counter()
    data = split(settings, Lake(settings), type(candidate), seed, bar)
    with bar(f"training {name}") as step:
        candidate.fit(data.train, data.validation, seed, step)
    normal = _reference(candidate, data)
    return register(settings, candidate, data, normal, perf_counter() - begin, {"seed": seed})


def card_of(candidate: Candidate, threshold: float, fingerprint: str, until: float) -> ModelCard:
    """The card of a trained candidate, without a version yet."""
    return ModelCard(
        design="fraud",
        candidate=candidate.name,
        features=candidate.features,
        sets={name: SETS[name] for name in candidate.sets},
        threshold=threshold,
        kpi={"review_minor": Kpi().review, "chargeback_fee_minor": Kpi().fee},
        trained_on=fingerprint,
        trained_at=datetime.now(UTC),
        trained_until=datetime.fromtimestamp(until, UTC),
    )


def _reference(candidate: Candidate, data: Split) -> Reference:
    """What is normal for a model, by the days it was trained and chosen on."""
    parts = (data.train, data.validation)
    vectors = np.concatenate([part.vectors for part in parts])
    score = np.concatenate([candidate.score(part) for part in parts])
    return reference(vectors, score, data.time)


def register(
    settings: Settings,
    candidate: Candidate,
    data: Split,
    normal: Reference,
    train_s: float,
    parameters: Mapping[str, object],
) -> Trained:
    """Choose a trained candidate's threshold, judge it on the validation days, register it.

    Args:
        normal: What the monitor will hold its decisions to.
    """
    valid = data.validation
    threshold = threshold_of(candidate, valid)
    judged = (candidate.score(valid), valid.positive, valid.amount, threshold, Kpi())
    found = {**metrics(*judged), "train_s": train_s}
    card = card_of(candidate, threshold, data.fingerprint, data.until)
    onnx = candidate.export()
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        shown = {**candidate.parameters, **parameters, "rows": len(data.train)}
        run = Training(card, onnx, shown, found, figures(*judged), native)
        card = Registry(settings).log(run)
    store_model(settings, card, onnx)
    store_reference(settings, card, normal.to_bytes())
    return Trained(card, found)
