"""The model registry: MLflow keeps every version, an alias marks the champion.

A version's ONNX file is also kept on S3, where serving, which has no MLflow, loads it: see
`promotion.py`.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from services.platform.models.names import CHALLENGER, CHAMPION, reference_path, version_path
from services.platform.models.onnx import ModelCard, write_card
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True)
class TrainingRun:
    """The results of one training run.

    Attributes:
        card: The model's card, without a version yet.
        onnx: The ONNX file.
        parameters: Hyperparameters, as MLflow shows them.
        metrics: Metrics, as MLflow shows them.
        plots: Plots by file name.
        native: Folder with the native model.
    """

    card: ModelCard
    onnx: bytes
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    plots: Mapping[str, Figure]
    native: Path


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model.

    Attributes:
        card: Its card, with a version.
        metrics: Its metrics on the validation days.
    """

    card: ModelCard
    metrics: dict[str, float]


class ModelRegistry:
    """The registry of one installation."""

    def __init__(self, settings: Settings) -> None:
        # MLflow's own warnings. Set here, so that libraries imported earlier do not override it.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        if not settings.mlflow_uri:
            (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(settings.mlflow)
        self._artifacts = (
            None if settings.mlflow_uri else (settings.home / "mlflow" / "artifacts").resolve()
        )

    def log(self, training: TrainingRun) -> ModelCard:
        """Store a training run and register its model. Returns the card with its version."""
        design = training.card.design
        run = self._client.create_run(self._experiment(design), run_name=training.card.candidate)
        run_id = run.info.run_id
        for name, value in training.parameters.items():
            self._client.log_param(run_id, name, value)
        for name, value in training.metrics.items():
            self._client.log_metric(run_id, name, value)
        for name, figure in training.plots.items():
            self._client.log_figure(run_id, figure, f"plots/{name}")
        self._client.log_artifacts(run_id, str(training.native), "native")
        version = self._register(design, run_id, f"{run.info.artifact_uri}/native")
        card = training.card.model_copy(update={"version": version})
        model = training.native.parent / f"{design}-{version}.onnx"
        model.write_bytes(write_card(training.onnx, card))
        self._client.log_artifact(run_id, str(model), "model")
        self._client.set_terminated(run_id)
        return card

    def champion(self, design: str) -> int | None:
        """Version of the champion, None if there is none yet."""
        try:
            return int(self._client.get_model_version_by_alias(design, CHAMPION).version)
        except MlflowException:
            return None

    def set_champion(self, design: str, version: int) -> None:
        """Move the champion's alias."""
        self._client.set_registered_model_alias(design, CHAMPION, str(version))

    def set_challenger(self, design: str, version: int | None) -> None:
        """Move the challenger's alias, or remove it."""
        if version is None:
            self._client.delete_registered_model_alias(design, CHALLENGER)
        else:
            self._client.set_registered_model_alias(design, CHALLENGER, str(version))

    def download_native(self, design: str, version: int, folder: Path) -> Path:
        """Copy a version's native model into a folder. Returns its path."""
        run_id = self._client.get_model_version(design, str(version)).run_id
        return Path(self._client.download_artifacts(run_id, "native", str(folder)))

    def newest_version(self, design: str, candidate: str) -> int | None:
        """The newest version of a candidate, None if it was never trained."""
        try:
            runs = self._client.search_runs(
                [self._experiment(design)], f"attributes.run_name = '{candidate}'"
            )
            known = {run.info.run_id for run in runs}
            versions = self._client.search_model_versions(f"name = '{design}'")
        except MlflowException:
            return None
        return max((int(v.version) for v in versions if v.run_id in known), default=None)

    def _register(self, design: str, run_id: str, source: str) -> int:
        try:
            self._client.create_registered_model(design)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return int(self._client.create_model_version(design, source, run_id).version)

    def _experiment(self, design: str) -> str:
        found = self._client.get_experiment_by_name(design)
        if found is not None:
            return str(found.experiment_id)
        location = None if self._artifacts is None else (self._artifacts / design).as_uri()
        return str(self._client.create_experiment(design, artifact_location=location))


def store_reference(settings: Settings, card: ModelCard, data: bytes) -> None:
    """Store a registered model's drift reference where its monitor reads it."""
    Lake(settings).put(reference_path(card.design, card.version), data)


def store_model(settings: Settings, card: ModelCard, onnx: bytes) -> None:
    """Store a registered model's file where serving loads it."""
    Lake(settings).put(version_path(card.design, card.version), write_card(onnx, card))
