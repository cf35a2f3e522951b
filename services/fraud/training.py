"""Train a candidate on history: point-in-time rows, a threshold by cost, a registry entry.

The split is by time, never at random: fit on the earlier days, choose the threshold on the last
week whose dispute window has closed. A random split would let the model see a campaign's other
transactions.
"""

import hashlib
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
from features.store import open_store
from services.fraud.candidates import CANDIDATES
from services.fraud.features import FEATURES, OWN, SPEC
from services.fraud.history import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.ingestion import ENTITIES, seconds
from services.fraud.problem import DISPUTE_WINDOW_DAYS, Kpi
from services.skeleton.candidates import Candidate, Examples
from services.skeleton.evaluation import figures, metrics
from services.skeleton.lake import Lake
from services.skeleton.model import ModelCard
from services.skeleton.progress import Bar, Step
from services.skeleton.registry import Registry, Training, publish_champion
from services.skeleton.settings import Settings

WARM_UP_DAYS = 10
VALIDATION_DAYS = 7
CONF = Path(__file__).parent / "conf"


class TooLittleHistory(ValueError):
    """Not enough labelled days to train on."""


@dataclass(frozen=True)
class Split:
    """Training and validation examples, and a fingerprint of both."""

    train: Examples
    validation: Examples
    fingerprint: str


def training_rows(lake: Lake) -> pa.Table:
    """Transactions whose outcome is known, past the warm-up, with it as column `fraud`.

    Raises:
        TooLittleHistory: there are not enough days between warm-up and open disputes.
    """
    transactions = lake.read(TRANSACTIONS_TABLE)
    labels = lake.read(LABELS_TABLE, ["transaction_id", "fraud"])
    if transactions is None or labels is None:
        raise TooLittleHistory("the lake holds no labelled transactions yet")
    time = seconds(transactions["event_time"].cast(pa.int64()).to_numpy())
    since, until = time.min() + WARM_UP_DAYS * DAY, time.max() - DISPUTE_WINDOW_DAYS * DAY
    if until - since < 2 * VALIDATION_DAYS * DAY:
        raise TooLittleHistory(
            f"{(until - since) / DAY:.0f} labelled days after {WARM_UP_DAYS} days of warm-up; "
            f"{2 * VALIDATION_DAYS} are needed"
        )
    rows = transactions.filter(pa.array((time >= since) & (time < until)))
    where = pc.index_in(rows["transaction_id"], labels["transaction_id"])
    return rows.append_column("fraud", labels["fraud"].take(where)).filter(pc.is_valid(where))


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
    frame[OWN[0]] = seconds(rows["event_time"].cast(pa.int64()).to_numpy())
    frame[OWN[1]] = rows["amount_minor"].to_numpy() / 100.0
    frame[OWN[2]] = np.where(filled, items, np.nan)
    frame[OWN[3]] = highest
    return frame


def own_frame(frame: pd.DataFrame) -> Floats:
    """The request's own columns of an entity frame, (N, len(OWN))."""
    return np.ascontiguousarray(frame[list(OWN)].to_numpy(dtype=np.float64))


def split(settings: Settings, lake: Lake) -> Split:
    """Labelled examples through `get_historical_features`, split by time."""
    rows = training_rows(lake)
    store = open_store(settings, SPEC)
    job = store.get_historical_features(entity_frame(rows), store.get_feature_service("fraud"))
    vectors = job.to_df()[list(FEATURES)].to_numpy(dtype=np.float64)
    positive = rows["fraud"].to_numpy()
    amount = rows["amount_minor"].to_numpy().astype(np.float64)
    time = seconds(rows["event_time"].cast(pa.int64()).to_numpy())
    late = time >= time.max() - VALIDATION_DAYS * DAY
    digest = hashlib.sha256(vectors.tobytes() + positive.tobytes()).hexdigest()[:16]
    return Split(
        train=Examples(vectors[~late], positive[~late], amount[~late]),
        validation=Examples(vectors[late], positive[late], amount[late]),
        fingerprint=digest,
    )


def hyperparameters(name: str) -> dict[str, object]:
    """A candidate's `conf/<name>.yaml`, empty without one."""
    path = CONF / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else {}


def fit(name: str, data: Split, seed: int, step: Step) -> tuple[Candidate, float]:
    """Train a candidate and choose its threshold. Returns it and the threshold."""
    candidate = CANDIDATES.get(name)(hyperparameters(name), FEATURES)
    candidate.fit(data.train, data.validation, seed, step)
    valid = data.validation
    score = candidate.score(valid.vectors)
    return candidate, Kpi().best_threshold(score, valid.positive, valid.amount)


def train(settings: Settings, name: str, seed: int, bar: Bar) -> tuple[ModelCard, dict[str, float]]:
    """Train a candidate on the lake's history and make it the champion.

    Args:
        bar: Opens a progress bar with a title.

    Raises:
        KeyError: no such candidate. TooLittleHistory: see `training_rows`.
    """
    CANDIDATES.get(name)
    with bar("reading point-in-time features"):
        data = split(settings, Lake(settings))
    begin = perf_counter()
    with bar(f"training {name}") as step:
        candidate, threshold = fit(name, data, seed, step)
    train_s = perf_counter() - begin
    valid = data.validation
    judged = (candidate.score(valid.vectors), valid.positive, valid.amount, threshold, Kpi())
    found = {**metrics(*judged), "train_s": train_s}
    card = ModelCard(
        design="fraud",
        candidate=name,
        features=FEATURES,
        threshold=threshold,
        kpi={"review_minor": Kpi().review, "chargeback_fee_minor": Kpi().fee},
        trained_on=data.fingerprint,
        trained_at=datetime.now(UTC),
    )
    registry = Registry(settings)
    onnx = candidate.export()
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        parameters = {**candidate.parameters, "seed": seed, "rows": len(data.train)}
        run = Training(card, onnx, parameters, found, figures(*judged), native)
        card = registry.log(run)
    publish_champion(settings, registry, card, onnx)
    return card, found
