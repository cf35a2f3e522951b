"""MLflow keeps a training run; an alias, a file and a note say who is champion; history is kept."""

import asyncio

import orjson
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from nats.errors import Error as NatsError

from services.fraud.features.states import FEATURES
from services.platform.models.onnx import Model
from services.platform.models.promotion import NothingBefore, Succession
from services.platform.models.promotion_log import HISTORY
from services.platform.models.registry import Registry, Training, store_model
from services.platform.models.served_model import BUCKET, CHALLENGER, champion_path, note_key
from services.platform.storage.lake import Lake
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


@pytest.fixture
async def registered(config, nc, candidate, tmp_path):
    """Settings with a registry of their own that holds two versions."""
    made = config.model_copy(update={"home": tmp_path})
    run = training(candidate, tmp_path / "native")
    for _ in range(2):
        logged = await asyncio.to_thread(Registry(made).log, run)
        await asyncio.to_thread(store_model, made, logged, run.onnx)
    return made


async def test_a_run_is_logged(registered, tmp_path):
    registry = Registry(registered)
    assert registry.champion("fraud") is None
    assert registry.newest("fraud", "xgboost") == 2
    assert registry.newest("fraud", "deepsets") is None
    client = MlflowClient(registered.mlflow)
    version = client.get_model_version("fraud", "2")
    kept = client.get_run(version.run_id)
    assert kept.data.metrics == {"ap": 0.5}
    assert kept.data.params == {"rounds": "30"}
    artifacts = {a.path for folder in ("plots", "native", "model")
                 for a in client.list_artifacts(version.run_id, folder)}  # fmt: skip
    assert artifacts == {
        "plots/cost_by_threshold.png", "native/xgboost.json", "model/fraud-2.onnx"
    }  # fmt: skip
    copied = registry.native("fraud", 2, tmp_path)
    assert (copied / "xgboost.json").exists()


def served(settings, role="champion") -> int:
    return Model(Lake(settings).get(champion_path("fraud", role)), "fraud", FEATURES).card.version


async def note(nc, role="champion") -> int | None:
    kept = await (await nc.jetstream().key_value(BUCKET)).get(note_key("fraud", role))
    return orjson.loads(kept.value)["version"]


async def test_promotion_moves_the_alias_the_file_and_the_note(registered, nc):
    line = Succession(registered, "fraud")
    await line.promote(1, "xgboost:1", ["first"], {})
    assert (line.champion(), served(registered), await note(nc)) == (1, 1, 1)
    await line.promote(2, "xgboost:2", ["saves 5"], {"cost_difference": -5.0})
    assert (line.champion(), served(registered), await note(nc)) == (2, 2, 2)
    first, second = await line.history()
    assert (first.before, second.before) == (None, 1)
    assert second.figures == {"cost_difference": -5.0}


async def test_a_rollback_goes_one_further_back_each_time(registered):
    line = Succession(registered, "fraud")
    with pytest.raises(NothingBefore):
        await line.roll_back("early")
    for version in (1, 2, 1):
        await line.promote(version, f"xgboost:{version}", ["so"], {})
    await line.refuse(2, "xgboost:2", ["cost: too dear"], {})
    assert (await line.roll_back("a complaint")).version == 2
    assert (await line.roll_back("another")).version == 1
    with pytest.raises(NothingBefore):
        await line.roll_back("a third")
    events = [r.event for r in await line.history()]
    assert events == [*["promoted"] * 3, "refused", *["rolled_back"] * 2]


async def test_a_challenger_is_announced_and_withdrawn(registered, nc):
    line = Succession(registered, "fraud")
    await line.challenge(2)
    assert (served(registered, CHALLENGER), await note(nc, CHALLENGER)) == (2, 2)
    await line.withdraw()
    assert await note(nc, CHALLENGER) is None
    with pytest.raises(FileNotFoundError):
        await line.challenge(9)


async def test_nothing_can_be_deleted_from_the_history(registered, nc):
    await Succession(registered, "fraud").promote(1, "xgboost:1", ["first"], {})
    for attempt in (nc.jetstream().delete_msg(HISTORY, 1), nc.jetstream().purge_stream(HISTORY)):
        with pytest.raises(NatsError):
            await attempt
