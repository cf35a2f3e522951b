"""Train a candidate on the lake's labelled transactions, choose its threshold, register it."""

from collections.abc import Mapping
from time import perf_counter

import numpy as np

from monitoring.reference import Reference
from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import FEATURE_SET, SETS
from services.fraud.model import read_model
from services.fraud.monitoring.drift import monitored_columns, reference
from services.fraud.problem import CONF, DESIGN, CostModel
from services.fraud.reasons.explainer import ATTACHMENT, explanation_file, first_reasons
from services.fraud.retraining.dataset import (
    PointInTime,
    TrainingData,
    feature_names,
    training_data,
)
from services.fraud.retraining.fallback import train_fallback
from services.fraud.retraining.sample import MAX_ROWS
from services.platform.evaluation.sampling import repeated
from services.platform.memory import release_memory
from services.platform.models.attachments import attach
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import ModelCard, write_card
from services.platform.models.registry import RegisteredModel
from services.platform.progress import ProgressBar
from services.platform.retraining import training
from services.platform.retraining.training import TrainedCandidate, hyperparameters
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats


def new_candidate(name: str, features: tuple[str, ...] = ()) -> Candidate:
    """An untrained candidate.

    Args:
        name: Its name.
        features: Its features, those of the present feature set if empty.

    Raises:
        KeyError: no such candidate; the message lists the known ones.
    """
    kind = CANDIDATES.get(name)
    return kind(hyperparameters(CONF, name), features or feature_names(kind))


def choose_threshold(candidate: Candidate, validation: Examples) -> float:
    """The threshold with the least cost on the validation examples."""
    score = candidate.score(validation)
    return CostModel().best_threshold(
        score, validation.positive, validation.amount, validation.weight
    )


def train(
    settings: Settings,
    name: str,
    seed: int,
    bar: ProgressBar,
    read: PointInTime | None = None,
) -> RegisteredModel:
    """Train a candidate on the lake's labelled transactions and register it, without serving it.

    Args:
        settings: Where lake and registry are.
        name: The candidate.
        seed: Seed of the training.
        bar: Opens a progress bar with a title.
        read: See `training_data`.

    Raises:
        KeyError: no such candidate.
        NotEnoughData: too few labelled days.
    """
    candidate = new_candidate(name)
    begin = perf_counter()
    data = training_data(settings, Lake(settings), type(candidate), seed, bar, read)
    with bar(f"training {name}") as step:
        candidate.fit(data.train, data.validation, seed, step)
    release_memory()
    drift_reference = reference_of(candidate, data)
    release_memory()
    fallback = train_fallback(data, candidate.features, seed, bar)
    train_s = perf_counter() - begin
    return register(settings, candidate, data, drift_reference, train_s, {"seed": seed}, fallback)


def make_card(
    candidate: Candidate,
    threshold: float,
    fingerprint: str,
    until: float,
    limits: Mapping[str, float] | None = None,
) -> ModelCard:
    """The card of a trained candidate, see `new_card`.

    Args:
        until: Event time of the newest training example, seconds.
        limits: What was left out of training; None: nothing.
    """
    return training.new_card(
        candidate,
        threshold,
        fingerprint,
        until,
        design=DESIGN,
        feature_set=FEATURE_SET.hash,
        sets={name: SETS[name] for name in candidate.sets},
        kpi={"review_minor": CostModel().opex, "chargeback_fee_minor": CostModel().fee},
        limits=dict(limits or {}),
    )


def reference_of(candidate: Candidate, data: TrainingData) -> Reference:
    """The drift monitor's reference for a model, from its training and validation days."""
    counted = np.concatenate([_counted(part) for part in (data.train, data.validation)])
    chosen = repeated(counted, MAX_ROWS)
    return reference(_monitored(candidate, data)[chosen], data.time[chosen])


def _monitored(candidate: Candidate, data: TrainingData) -> Floats:
    parts = (data.train, data.validation)
    return np.concatenate([monitored_columns(p.vectors, candidate.score(p)) for p in parts])


def _counted(examples: Examples) -> Floats:
    return np.ones(len(examples)) if examples.weight is None else examples.weight


def register(
    settings: Settings,
    candidate: Candidate,
    data: TrainingData,
    drift_reference: Reference,
    train_s: float,
    parameters: Mapping[str, object],
    fallback: Mapping[str, bytes],
) -> RegisteredModel:
    """Choose a trained candidate's threshold, evaluate it on the validation days, register it.

    Args:
        settings: Where lake and registry are.
        candidate: The trained candidate.
        data: What it was trained and validated on.
        drift_reference: Distributions that the monitor compares its decisions with.
        train_s: How long training took, seconds.
        parameters: Further parameters to log with the run.
        fallback: The attachment with the model's fallback.
    """
    valid = data.validation
    score = candidate.score(valid)
    threshold = CostModel().best_threshold(score, valid.positive, valid.amount, valid.weight)
    card = make_card(candidate, threshold, data.fingerprint, data.until, data.limits)
    trained = TrainedCandidate(
        candidate,
        card,
        valid,
        score,
        CostModel(),
        {**parameters, "rows": len(data.train)},
        {"train_s": train_s},
        drift_reference.to_bytes(),
        {
            **attachments(candidate, data, card),
            **fallback,
        },
    )
    return training.register(settings, trained)


def attachments(candidate: Candidate, data: TrainingData, card: ModelCard) -> dict[str, bytes]:
    """What a model's file carries besides the model: what its reasons need."""
    file = explanation_file(candidate, data.train)
    model = read_model(write_card(attach(candidate.export(), {ATTACHMENT: file}), card))
    mix = first_reasons(model, data.validation)
    return {ATTACHMENT: explanation_file(candidate, data.train, mix)}
