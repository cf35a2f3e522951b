"""The training template: a candidate's hyperparameters, its card, and its registration.

A design brings examples and fits its candidate; training from scratch and training further both end
in `register`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from services.platform.evaluation.cost import CostModel
from services.platform.evaluation.metrics import metrics
from services.platform.evaluation.plots import plots
from services.platform.models.attachments import attach
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import (
    ModelRegistry,
    RegisteredModel,
    TrainingRun,
    store_model,
    store_reference,
)
from services.platform.settings import Settings
from services.platform.types import Floats

# File of a native model's hyperparameters, beside what the candidate saves.
_PARAMETERS = "hyperparameters.json"


def hyperparameters(folder: Path, name: str) -> dict[str, Any]:
    """The content of a candidate's `<name>.yaml` in a folder; empty without that file."""
    path = folder / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.exists() else {}


def new_card(
    candidate: Candidate[Any],
    threshold: float,
    fingerprint: str,
    trained_until: float | None,
    **of_design: Any,
) -> ModelCard:
    """The card of a trained candidate, still without a version.

    Args:
        threshold: Cases with a score at or above it are stopped.
        fingerprint: Hash of the training data.
        trained_until: Event time of the newest training example, seconds; None if there is none.
        of_design: The card's other fields: `design`, `kpi`, `sets`, `classes`.
    """
    return ModelCard(
        candidate=candidate.name,
        features=candidate.features,
        threshold=threshold,
        trained_on=fingerprint,
        trained_at=datetime.now(UTC),
        trained_until=None if trained_until is None else datetime.fromtimestamp(trained_until, UTC),
        **of_design,
    )


@dataclass(frozen=True)
class TrainedCandidate:
    """A trained candidate and what is registered with it.

    Attributes:
        candidate: With its weights.
        card: Its card, without a version yet.
        validation: N examples that it was not fitted on.
        score: (N,) its scores of them.
        cost_model: What decisions cost.
        parameters: Logged beside its hyperparameters.
        metrics: Logged beside those of the validation examples.
        reference: The drift monitor's reference, as it is stored.
        attachments: By name, what the model file carries besides.
        exported: Its ONNX file, if it was exported already; empty otherwise.
    """

    candidate: Candidate[Any]
    card: ModelCard
    validation: Examples
    score: Floats
    cost_model: CostModel
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    reference: bytes
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    exported: bytes = b""


def native_parameters(native: Path) -> dict[str, Any]:
    """The hyperparameters of a registered native model; empty for one of an earlier version.

    A model that was trained with others than its candidate's conf is trained further with its own.
    """
    path = native / _PARAMETERS
    return dict(json.loads(path.read_text())) if path.exists() else {}


def register(settings: Settings, trained: TrainedCandidate) -> RegisteredModel:
    """Evaluate a trained candidate, export and register it; it does not serve yet."""
    candidate, valid = trained.candidate, trained.validation
    threshold = trained.card.threshold
    evaluated = (trained.score, valid.positive, valid.amount, threshold, trained.cost_model)
    measured = {**metrics(*evaluated, valid.weight), **trained.metrics}
    card = trained.card.model_copy(update={"calibration_error": measured["ece"]})
    onnx = attach(trained.exported or candidate.export(), trained.attachments)
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        (native / _PARAMETERS).write_text(json.dumps(candidate.parameters, default=str))
        parameters = {**candidate.parameters, **trained.parameters}
        run = TrainingRun(card, onnx, parameters, measured, plots(*evaluated), native)
        card = ModelRegistry(settings).log(run)
    store_model(settings, card, onnx)
    store_reference(settings, card, trained.reference)
    return RegisteredModel(card, measured)
