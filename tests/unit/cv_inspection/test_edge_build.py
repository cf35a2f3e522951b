"""What an edge build quantises and is measured on: the champion or another model, a folder."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.edge import quantisation
from services.cv_inspection.evaluation import edge_build
from services.cv_inspection.evaluation.edge_build import BuildRequest, build
from services.cv_inspection.model import ImageOutputs
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining.training import folder_split
from services.platform.models.onnx import write_card
from services.platform.settings import Settings
from tests.unit.cv_inspection.vision_fixtures import SIZE, cv_card, quiet, simulated


def bar(_):
    return nullcontext(quiet)


@pytest.fixture
def folder(tmp_path):
    """Of each class of the model, four parts."""
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for part in range(4):
            pixels = rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "parts" / kind / f"{kind}_{part}.png")
    return tmp_path / "parts"


@pytest.fixture
def measured(monkeypatch):
    """What `quantisation.build` was called with."""
    calls = []
    monkeypatch.setattr(quantisation, "build", lambda *arguments: calls.append(arguments))
    return calls


def file_of(tmp_path, vision_file, **card):
    path = tmp_path / "model.onnx"
    path.write_bytes(write_card(vision_file, cv_card(**card)))
    return path


def test_a_folder_measures_on_the_groups_that_training_held_out(
    folder, tmp_path, vision_file, measured, caplog
):
    split = folder_split(folder, r"_(\d)", False, 3, (SIZE, SIZE), np.inf, bar)
    file = file_of(tmp_path, vision_file, trained_on=split.fingerprint, classes=split.classes)
    request = BuildRequest(file=file, folder=folder, group_by=r"_(\d)", seed=3)
    build(Settings(), request, bar)
    [(data, calibration, validation, held_out, _)] = measured
    assert data == file.read_bytes()
    assert validation is held_out
    assert np.array_equal(held_out.vectors, split.validation.vectors)
    # In another order: calibration takes the first, and a folder is sorted by class.
    assert sorted(calibration.source) == sorted(split.train.source)
    assert not np.array_equal(calibration.source, split.train.source)
    assert not caplog.records
    # Another seed holds out other groups: some of these were trained on.
    build(Settings(), replace(request, seed=4), bar)
    assert "not trained on this split" in caplog.text


def test_a_folder_of_other_classes_is_refused(folder, tmp_path, vision_file, measured):
    own = ("good", *(f"own_{n}" for n in range(5)))
    file = file_of(tmp_path, vision_file, classes=own)
    with pytest.raises(ValueError, match=r"own_4, and .*parts has good, crack, missing_thread"):
        build(Settings(), BuildRequest(file=file, folder=folder, group_by=r"_(\d)"), bar)
    with pytest.raises(ValueError, match=r"not the simulated line's .*--data"):
        build(Settings(), BuildRequest(file=file), bar)
    assert measured == []


def test_the_newest_version_of_a_candidate_is_built(monkeypatch, vision_file, measured):
    found = {"tiny_vit": 7}

    class Registry:
        def __init__(self, _):
            pass

        def newest_version(self, design, name):
            return found.get(name)

    class Lake:
        def __init__(self, _):
            pass

        def get(self, path):
            assert path == "models/cv/7.onnx"
            return write_card(vision_file, cv_card())

    monkeypatch.setattr(edge_build, "ModelRegistry", Registry)
    monkeypatch.setattr(edge_build, "Lake", Lake)
    images = simulated(4)
    monkeypatch.setattr(edge_build, "_simulated", lambda *_: (images, images, images))
    build(Settings(), BuildRequest("tiny_vit"), bar)
    assert len(measured) == 1
    with pytest.raises(ValueError, match="`whiteboard train cv --candidate efficientnet_lite2`"):
        build(Settings(), BuildRequest("efficientnet_lite2"), bar)
    with pytest.raises(KeyError, match="choose from"):
        build(Settings(), BuildRequest("efficientnet_lite9"), bar)
    with pytest.raises(ValueError, match="either --candidate or --model"):
        build(Settings(), BuildRequest("tiny_vit", Path("model.onnx")), bar)


def test_an_image_of_several_tiles_escapes_once():
    """Three tiles of a defective image, two of which show it; one of a good image."""

    class Model:
        card = cv_card(threshold=0.5)

        def inspect(self, pixels):
            defect = np.array([0.1, 0.3, 0.2, 0.1])
            probabilities = np.column_stack([1 - defect, defect])
            novelty = np.zeros(4)
            return ImageOutputs(probabilities, np.zeros((4, 1, SIZE, SIZE)), novelty, novelty)

    label = np.array([0, 1, 1, 0])
    tiles = replace(simulated(4), label=label, positive=label > 0, source=np.array([0, 0, 0, 1]))
    found = quantisation._measure(Model(), tiles, [0.001], 1.0)
    assert (found.auc, found.recall, found.cost) == (1.0, 0.0, 6_000.0)


def test_without_a_champion_the_remedy_is_named(monkeypatch):
    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(edge_build, "get_served", missing)
    with pytest.raises(ValueError, match="no champion to build from: `whiteboard up`"):
        build(Settings(), BuildRequest(), bar)
