"""Training runs in MLflow; promotion by alias, file and announcement; the history."""

import asyncio

import orjson
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from nats.errors import Error as NatsError

from services.fraud.features.states import FEATURES
from services.fraud.model import read_model
from services.fraud.problem import CostModel
from services.platform.evaluation.metrics import calibration_error
from services.platform.models.alias import alias_conflict, read_alias
from services.platform.models.names import (
    ANNOUNCEMENTS,
    CHALLENGER,
    announcement_key,
    served_path,
    version_path,
)
from services.platform.models.promotion import ModelLifecycle, NoPreviousChampion
from services.platform.models.promotion_log import HISTORY_STREAM
from services.platform.models.registry import ModelRegistry, TrainingRun, store_model
from services.platform.models.tabular import TabularModel
from services.platform.retraining.training import TrainedCandidate, register
from services.platform.runtime.tasks import cancel_tasks
from services.platform.serving.decision_service import DecisionService
from services.platform.storage.lake import Lake
from tests.conftest import card
from tests.integration.conftest import until


def training_run(candidate, native):
    native.mkdir()
    candidate.save(native)
    return TrainingRun(
        card=card(version=0),
        onnx=candidate.export(),
        parameters={"rounds": 30},
        metrics={"ap": 0.5},
        plots={"cost_by_threshold.png": Figure()},
        native=native,
    )


@pytest.fixture
async def registered(config, nc, candidate, tmp_path):
    """Settings with a registry of their own that holds two versions."""
    settings = config.model_copy(update={"home": tmp_path})
    run = training_run(candidate, tmp_path / "native")
    for _ in range(2):
        logged = await asyncio.to_thread(ModelRegistry(settings).log, run)
        await asyncio.to_thread(store_model, settings, logged, run.onnx)
    return settings


async def test_a_run_is_logged(registered, tmp_path):
    registry = ModelRegistry(registered)
    assert registry.champion("fraud") is None
    assert registry.newest_version("fraud", "xgboost") == 2
    assert registry.newest_version("fraud", "deepsets") is None
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
    copied = registry.download_native("fraud", 2, tmp_path)
    assert (copied / "xgboost.json").exists()


async def test_the_card_states_its_calibration(config, nc, candidate, simulated, tmp_path):
    settings, some = config.model_copy(update={"home": tmp_path}), simulated.examples
    score = candidate.score(some)
    trained = TrainedCandidate(
        candidate, card(version=0), some, score, CostModel(), {}, {}, reference=b""
    )
    made = await asyncio.to_thread(register, settings, trained)
    stored = read_model(Lake(settings).get(version_path("fraud", made.card.version)))
    error = calibration_error(score, some.positive, weight=some.weight)
    assert stored.card.calibration_error == pytest.approx(error)
    assert error > 0


def served(settings, role="champion") -> int:
    return TabularModel(
        Lake(settings).get(served_path("fraud", role)), "fraud", FEATURES
    ).card.version


async def announced(nc, role="champion") -> int | None:
    kept = await (await nc.jetstream().key_value(ANNOUNCEMENTS)).get(
        announcement_key("fraud", role)
    )
    return orjson.loads(kept.value)["version"]


async def test_promotion_moves_the_alias_the_file_and_the_note(registered, nc):
    lifecycle = ModelLifecycle(registered, "fraud")
    await lifecycle.promote(1, "xgboost:1", ["first"], {})
    assert (await lifecycle.champion(), served(registered), await announced(nc)) == (1, 1, 1)
    await lifecycle.promote(2, "xgboost:2", ["saves 5"], {"cost_difference": -5.0})
    assert (await lifecycle.champion(), served(registered), await announced(nc)) == (2, 2, 2)
    first, second = await lifecycle.history()
    assert (first.before, second.before) == (None, 1)
    assert second.figures == {"cost_difference": -5.0}


async def test_an_alias_moved_past_the_gate_changes_no_champion(registered):
    lifecycle = ModelLifecycle(registered, "fraud")
    assert read_alias(registered, "fraud") is None
    await lifecycle.promote(1, "xgboost:1", ["first"], {})
    assert alias_conflict(registered, "fraud", served(registered)) == ""
    ModelRegistry(registered).set_champion("fraud", 2)
    assert await lifecycle.champion() == 1
    conflict = alias_conflict(registered, "fraud", served(registered))
    assert "names version 2, but version 1" in conflict
    assert (await lifecycle.refuse(2, "xgboost:2", ["cost"], {})).before == 1
    await lifecycle.promote(2, "xgboost:2", ["saves"], {})
    assert alias_conflict(registered, "fraud", served(registered)) == ""


async def test_the_alias_counts_where_nothing_is_announced(registered, nc):
    ModelRegistry(registered).set_champion("fraud", 2)
    assert await ModelLifecycle(registered, "fraud").champion() == 2


async def test_readiness_names_a_conflict_and_stays_ready(registered):
    lifecycle = ModelLifecycle(registered, "fraud")
    await lifecycle.promote(1, "xgboost:1", ["first"], {})
    ModelRegistry(registered).set_champion("fraud", 2)
    service = DecisionService(registered, "fraud", "scorer", read_model, None)
    await asyncio.to_thread(service.champion.load)
    checking = asyncio.create_task(service._check_alias())
    try:
        await until(lambda: "names version 2" in service._registry_alias)
    finally:
        await cancel_tasks(checking)


async def test_a_rollback_goes_one_further_back_each_time(registered):
    lifecycle = ModelLifecycle(registered, "fraud")
    with pytest.raises(NoPreviousChampion):
        await lifecycle.roll_back("early")
    for version in (1, 2, 1):
        await lifecycle.promote(version, f"xgboost:{version}", ["so"], {})
    await lifecycle.refuse(2, "xgboost:2", ["cost: too dear"], {})
    assert (await lifecycle.roll_back("a complaint")).version == 2
    assert (await lifecycle.roll_back("another")).version == 1
    with pytest.raises(NoPreviousChampion):
        await lifecycle.roll_back("a third")
    events = [r.event for r in await lifecycle.history()]
    assert events == [*["promoted"] * 3, "refused", *["rolled_back"] * 2]


async def test_a_challenger_is_announced_and_withdrawn(registered, nc):
    lifecycle = ModelLifecycle(registered, "fraud")
    await lifecycle.start_shadow(2)
    assert (served(registered, CHALLENGER), await announced(nc, CHALLENGER)) == (2, 2)
    await lifecycle.stop_shadow()
    assert await announced(nc, CHALLENGER) is None
    with pytest.raises(FileNotFoundError):
        await lifecycle.start_shadow(9)


async def test_nothing_can_be_deleted_from_the_history(registered, nc):
    await ModelLifecycle(registered, "fraud").promote(1, "xgboost:1", ["first"], {})
    for attempt in (
        nc.jetstream().delete_msg(HISTORY_STREAM, 1),
        nc.jetstream().purge_stream(HISTORY_STREAM),
    ):
        with pytest.raises(NatsError):
            await attempt
