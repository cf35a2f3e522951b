"""Train a candidate on the lake's labelled transactions, choose its threshold, register it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import yaml

from monitoring.reference import Reference
from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import SETS
from services.fraud.monitoring.drift import reference
from services.fraud.problem import CONF, CostModel
from services.fraud.retraining.dataset import TrainingData, feature_names, training_data
from services.platform.evaluation.metrics import metrics, plots
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import (
    ModelRegistry,
    RegisteredModel,
    TrainingRun,
    store_model,
    store_reference,
)
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake


def hyperparameters(name: str) -> dict[str, object]:
    """The content of a candidate's `conf/<name>.yaml`; empty without that file."""
    path = CONF / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else {}


def new_candidate(name: str) -> Candidate:
    """An untrained candidate.

    Raises:
        KeyError: no such candidate; the message lists the known ones.
    """
    kind = CANDIDATES.get(name)
    return kind(hyperparameters(name), feature_names(kind))


def choose_threshold(candidate: Candidate, validation: Examples) -> float:
    """The threshold with the least cost on the validation examples."""
    score = candidate.score(validation)
    return CostModel().best_threshold(score, validation.positive, validation.amount)


def train(settings: Settings, name: str, seed: int, bar: ProgressBar) -> RegisteredModel:
    """Train a candidate on the lake's labelled transactions and register it, without serving it.

    Args:
        settings: Where lake and registry are.
        name: The candidate.
        seed: Seed of the training.
        bar: Opens a progress bar with a title.

    Raises:
        KeyError: no such candidate.
        NotEnoughData: too few labelled days.
    """
    candidate = new_candidate(name)
    begin = perf_counter()
    data = training_data(settings, Lake(settings), type(candidate), seed, bar)
    with bar(f"training {name}") as step:
        candidate.fit(data.train, data.validation, seed, step)
    drift_reference = _reference(candidate, data)
    train_s = perf_counter() - begin
    return register(settings, candidate, data, drift_reference, train_s, {"seed": seed})


def make_card(candidate: Candidate, threshold: float, fingerprint: str, until: float) -> ModelCard:
    """The card of a trained candidate, still without a version.

    Args:
        candidate: The trained candidate.
        threshold: Scores from here on are declined.
        fingerprint: Hash of the training data.
        until: Event time of the newest training example, seconds.
    """
    return ModelCard(
        design="fraud",
        candidate=candidate.name,
        features=candidate.features,
        sets={name: SETS[name] for name in candidate.sets},
        threshold=threshold,
        kpi={"review_minor": CostModel().review, "chargeback_fee_minor": CostModel().fee},
        trained_on=fingerprint,
        trained_at=datetime.now(UTC),
        trained_until=datetime.fromtimestamp(until, UTC),
    )


def _reference(candidate: Candidate, data: TrainingData) -> Reference:
    """The drift monitor's reference for a model, from its training and validation days."""
    parts = (data.train, data.validation)
    vectors = np.concatenate([part.vectors for part in parts])
    score = np.concatenate([candidate.score(part) for part in parts])
    return reference(vectors, score, data.time)


def register(
    settings: Settings,
    candidate: Candidate,
    data: TrainingData,
    drift_reference: Reference,
    train_s: float,
    parameters: Mapping[str, object],
) -> RegisteredModel:
    """Choose a trained candidate's threshold, evaluate it on the validation days, register it.

    Args:
        settings: Where lake and registry are.
        candidate: The trained candidate.
        data: What it was trained and validated on.
        drift_reference: Distributions that the monitor compares its decisions with.
        train_s: How long training took, seconds.
        parameters: Further parameters to log with the run.
    """
    valid = data.validation
    threshold = choose_threshold(candidate, valid)
    evaluated = (candidate.score(valid), valid.positive, valid.amount, threshold, CostModel())
    figures = {**metrics(*evaluated), "train_s": train_s}
    card = make_card(candidate, threshold, data.fingerprint, data.until)
    onnx = candidate.export()
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        logged = {**candidate.parameters, **parameters, "rows": len(data.train)}
        run = TrainingRun(card, onnx, logged, figures, plots(*evaluated), native)
        card = ModelRegistry(settings).log(run)
    store_model(settings, card, onnx)
    store_reference(settings, card, drift_reference.to_bytes())
    return RegisteredModel(card, figures)
