"""The recipe for folders: what trains by it, and models that are trained further."""

import shutil
from contextlib import nullcontext

import pandas as pd
import pytest

from services.cv_inspection.design import INSPECTION
from services.cv_inspection.evaluation.cross_validation import protocols
from services.cv_inspection.features.labelled_images import ImageSplit
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining import plan, training
from services.cv_inspection.retraining.folders import FolderDataset
from services.cv_inspection.retraining.outcomes import LabelledInspections
from services.cv_inspection.retraining.recipe import RECIPE, recipe
from services.platform.hooks import EvaluationRequest, LabelledFolder
from services.platform.retraining import training as platform_training
from services.platform.settings import Settings
from tests.unit.cv_inspection.vision_fixtures import SMALL, cv_card, quiet, simulated


def test_training_on_a_folder_is_by_the_recipe_that_is_evaluated(tmp_path, monkeypatch):
    """Otherwise `evaluate cv` would measure another model than `train cv` makes."""
    asked = []

    def stop(*arguments):
        asked.append(arguments)
        raise ValueError("stopped")

    def overrides_of(candidate, epochs=0, image_size=""):
        folder = LabelledFolder(tmp_path, r"kos(\d+)", epochs, image_size)
        with pytest.raises(ValueError, match="stopped"):
            INSPECTION.train(Settings(), candidate, 0, lambda _: nullcontext(quiet), folder)
        request = EvaluationRequest(
            tmp_path, candidate, 0, 1, False, "grouped", r"kos(\d+)", False, epochs, image_size
        )
        with pytest.raises(ValueError, match="stopped"):
            protocols.evaluation(request, lambda _: nullcontext(quiet))
        return [arguments[2] for arguments in asked[-2:]]

    split = ImageSplit(simulated(), simulated(), CLASSES)
    monkeypatch.setattr(training, "folder_split", lambda *_: split)
    monkeypatch.setattr(training, "new_candidate", stop)
    monkeypatch.setattr(protocols, "read_for_folds", lambda *_: FolderDataset(None, ()))
    monkeypatch.setattr(protocols, "Folds", lambda *arguments, **_: stop(*arguments))
    trained, evaluated = overrides_of("efficientnet")
    assert trained == evaluated == dict(RECIPE)
    trained, evaluated = overrides_of("efficientnet", 2, "32x64")
    assert trained == evaluated == {**RECIPE, "epochs": 2, "size": [32, 64]}
    # It trains no weights, and the larger input would show it less of a large image.
    assert overrides_of("normality") == [{}, {}]
    with pytest.raises(ValueError, match="it has no --epochs"):
        recipe("normality", epochs=3)
    with pytest.raises(ValueError, match="image-size '256,' is neither"):
        recipe("efficientnet", image_size="256,")
    with pytest.raises(ValueError, match="multiples of 32"):
        recipe("efficientnet", image_size="100")


def test_a_model_is_trained_further_with_the_hyperparameters_it_has(monkeypatch, tmp_path):
    """Class maps are weights, so the conf's network could not load those of the recipe."""
    changed = {**SMALL, "class_map_weight": 0.5, "normalise_by_image": True, "epochs": 1}
    made = training.new_candidate("efficientnet", CLASSES, changed)
    images = simulated(32)
    made.fit(images, images, 0, quiet)

    class Registry:
        def __init__(self, *_):
            pass

        def log(self, run):
            shutil.copytree(run.native, tmp_path / "native")
            return run.card

    for name in ("ModelRegistry", "store_model", "store_reference"):
        monkeypatch.setattr(platform_training, name, Registry)
    split = ImageSplit(images, images, CLASSES)
    training.register(Settings(), made, split, 0.0, {}, lambda _: nullcontext(quiet))
    further = []
    monkeypatch.setattr(plan, "fetch_images", lambda *_: images)
    monkeypatch.setattr(plan.REQUIRED_LABELS.__class__, "check", lambda *_: None)
    monkeypatch.setattr(training, "register", lambda _, candidate, *__: further.append(candidate))
    rows = pd.DataFrame({"event_time": [pd.Timestamp.now("UTC")]})
    plan.train_further(
        Settings(), cv_card(), tmp_path / "native", LabelledInspections(rows), 0,
        lambda _: nullcontext(quiet), lambda *_: images,
    )  # fmt: skip
    assert further[0].parameters == {**made.parameters}
    # One of an earlier version has the conf's.
    (tmp_path / "native" / "hyperparameters.json").unlink()
    assert platform_training.native_parameters(tmp_path / "native") == {}
