"""The model registry: MLflow keeps every version, an alias says which one is champion.

Promotion does three things in this order: the alias moves, the file goes to where serving loads
it from, and a note in a NATS key-value bucket announces it. Serving watches the bucket and knows
no MLflow; after a restart the bucket's last value says what to load.
"""

import asyncio
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from services.skeleton.champion import BUCKET, champion_path
from services.skeleton.lake import Lake
from services.skeleton.model import ModelCard, stamp
from services.skeleton.settings import Settings
from services.skeleton.stream import connect

CHAMPION = "champion"

warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Training:
    """What one training run leaves behind.

    Attributes:
        card: The model's card, without a version yet. onnx: The file.
        parameters, metrics: As MLflow shows them. figures: By file name.
        native: Folder with the native model.
    """

    card: ModelCard
    onnx: bytes
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    figures: Mapping[str, Figure]
    native: Path


class Registry:
    """The registry of one installation."""

    def __init__(self, settings: Settings) -> None:
        if not settings.mlflow_uri:
            (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(settings.mlflow)
        self._artifacts = (
            None if settings.mlflow_uri else (settings.home / "mlflow" / "artifacts").resolve()
        )

    def log(self, training: Training) -> ModelCard:
        """Keep a training run and register its model. Returns the card with its version."""
        design = training.card.design
        run = self._client.create_run(self._experiment(design), run_name=training.card.candidate)
        run_id = run.info.run_id
        for name, value in training.parameters.items():
            self._client.log_param(run_id, name, value)
        for name, value in training.metrics.items():
            self._client.log_metric(run_id, name, value)
        for name, figure in training.figures.items():
            self._client.log_figure(run_id, figure, f"plots/{name}")
        self._client.log_artifacts(run_id, str(training.native), "native")
        version = self._register(design, run_id, f"{run.info.artifact_uri}/native")
        card = training.card.model_copy(update={"version": version})
        model = training.native.parent / f"{design}-{version}.onnx"
        model.write_bytes(stamp(training.onnx, card))
        self._client.log_artifact(run_id, str(model), "model")
        self._client.set_terminated(run_id)
        return card

    def champion(self, design: str) -> int | None:
        """Version of the champion, None before there is one."""
        try:
            return int(self._client.get_model_version_by_alias(design, CHAMPION).version)
        except MlflowException:
            return None

    def set_champion(self, design: str, version: int) -> None:
        """Move the alias."""
        self._client.set_registered_model_alias(design, CHAMPION, str(version))

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
        location = None if self._artifacts is None else f"file://{self._artifacts / design}"
        return str(self._client.create_experiment(design, artifact_location=location))


def publish_champion(settings: Settings, registry: Registry, card: ModelCard, onnx: bytes) -> None:
    """Make a logged model the champion and announce it."""
    registry.set_champion(card.design, card.version)
    lake = Lake(settings)
    data = stamp(onnx, card)
    lake.put(f"models/{card.design}/{card.version}.onnx", data)
    lake.put(champion_path(card.design), data)
    asyncio.run(_announce(settings, card))


async def _announce(settings: Settings, card: ModelCard) -> None:
    nc = await connect(settings, "registry")
    try:
        await announce(nc, card.design, card.version)
    finally:
        await nc.drain()


async def announce(nc: Client, design: str, version: int) -> None:
    """Tell whoever serves a design that its champion's file has changed."""
    js = nc.jetstream()
    try:
        bucket = await js.key_value(BUCKET)
    except NotFoundError:
        bucket = await js.create_key_value(bucket=BUCKET)
    await bucket.put(design, orjson.dumps({"version": version}))
