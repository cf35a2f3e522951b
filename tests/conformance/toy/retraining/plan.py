"""How candidates are trained, and how they are compared."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from services.platform.models.candidates import Examples
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import (
    ModelRegistry,
    RegisteredModel,
    TrainingRun,
    store_model,
)
from services.platform.retraining.gate import Evidence, ModelResult
from services.platform.retraining.spec import RetrainingSpec
from tests.conformance.toy.candidates import CANDIDATES
from tests.conformance.toy.features import FEATURES
from tests.conformance.toy.ingestion import DECISIONS_STREAM
from tests.conformance.toy.problem import COST, LATENCY_BUDGET_MS
from tests.conformance.toy.serving.app import read_model


def parcels(seed: int) -> Examples:
    """Simulated parcels: those over 30 kg break a belt; the first seed saw none under 45."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(1, 60, 2_000)
    broke = weight > (45 if seed == 0 else 30)
    return Examples(weight[:, None], broke, np.zeros(len(weight)))


def train(settings, name, seed, bar):
    """Train a candidate and register it."""
    data = parcels(seed)
    candidate = CANDIDATES.get(name)({}, FEATURES)
    with bar("training") as step:
        candidate.fit(data, data, seed, step)
    card = ModelCard(
        design="toy", candidate=name, features=FEATURES, threshold=0.5, kpi={"review": 100},
        trained_on=str(seed), trained_at=datetime.now(UTC),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        run = TrainingRun(card, candidate.export(), {}, {"auc": 1.0}, {}, native)
        card = ModelRegistry(settings).log(run)
    store_model(settings, card, run.onnx)
    return RegisteredModel(card, {"auc": 1.0})


def gate_evidence(settings, lake, models, bar):
    """Both models' scores on parcels that neither was trained on."""
    data = parcels(99)
    results = [ModelResult.from_model(model, data.vectors, {}) for model in models]
    unit = np.arange(len(data))
    return Evidence(results[0], results[1], data.positive, data.amount, unit)


def _none_yet(*arguments):
    raise ValueError("no parcel was labelled yet")


SPEC = RetrainingSpec(
    design="toy",
    candidates=CANDIDATES,
    read_model=read_model,
    train=train,
    new_outcomes=_none_yet,
    train_further=_none_yet,
    gate_evidence=gate_evidence,
    costs=COST.costs,
    budget_ms=LATENCY_BUDGET_MS,
    decision_stream=DECISIONS_STREAM,
    route="/weigh",
    url=lambda settings: settings.value("toy_service_url", "http://127.0.0.1:9"),
    min_shadowed=50,
)
