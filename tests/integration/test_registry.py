"""MLflow keeps a training run, an alias names the champion, and serving's copy is announced."""

import asyncio

import orjson
from matplotlib.figure import Figure
from mlflow import MlflowClient

from services.fraud.features import FEATURES
from services.skeleton.champion import BUCKET, champion_path
from services.skeleton.lake import Lake
from services.skeleton.model import Model
from services.skeleton.registry import Registry, Training, publish_champion
from tests.conftest import card


def training(candidate, native):
    native.mkdir()
    candidate.save(native)
    return Training(
        card=card(version=0),
        onnx=candidate.export(),
        parameters={"rounds": 30},
        metrics={"ap": 0.5},
        figures={"cost_by_threshold.png": Figure()},
        native=native,
    )


async def test_a_run_is_logged_and_its_model_becomes_champion(config, nc, candidate, tmp_path):
    made = config.model_copy(update={"home": tmp_path})
    registry = Registry(made)
    assert registry.champion("fraud") is None
    run = training(candidate, tmp_path / "native")
    first = await asyncio.to_thread(registry.log, run)
    second = await asyncio.to_thread(registry.log, run)
    assert (first.version, second.version) == (1, 2)
    await asyncio.to_thread(publish_champion, made, registry, second, run.onnx)

    assert registry.champion("fraud") == 2
    client = MlflowClient(made.mlflow)
    version = client.get_model_version("fraud", "2")
    kept = client.get_run(version.run_id)
    assert kept.data.metrics == {"ap": 0.5}
    assert kept.data.params == {"rounds": "30"}
    artifacts = {a.path for folder in ("plots", "native", "model")
                 for a in client.list_artifacts(version.run_id, folder)}  # fmt: skip
    assert artifacts == {
        "plots/cost_by_threshold.png", "native/xgboost.json", "model/fraud-2.onnx"
    }  # fmt: skip
    served = Model(Lake(made).get(champion_path("fraud")), "fraud", FEATURES)
    assert served.card == second
    note = await (await nc.jetstream().key_value(BUCKET)).get("fraud")
    assert orjson.loads(note.value) == {"version": 2}
