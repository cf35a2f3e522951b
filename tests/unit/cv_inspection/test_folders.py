"""Folders of real images: both layouts, groups kept together, invalid folders."""

from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.evaluation.magnetic_tile import Interval, evaluate, protocol_metrics
from services.cv_inspection.retraining.folders import read_folder
from services.cv_inspection.retraining.training import hold_out_units
from tests.conftest import DATA
from tests.unit.cv_inspection.vision_fixtures import make_tiles, quiet, simulated

TILES = DATA / "magnetic_tile"


def save_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        save_image(tmp_path / "ok" / f"{number}.png", 100)
        save_image(tmp_path / "dent" / f"{number}.png", 50)
    save_image(tmp_path / "dent" / "0_mask.png", 255)
    return tmp_path


def test_a_folder_of_classes_is_read(folder):
    data = read_folder(folder, 32, quiet)
    assert data.classes == ("good", "dent")
    assert len(data.images) == 6
    assert data.images.positive.sum() == 3
    assert data.images.mask.any(axis=(1, 2)).sum() == 1
    # A defect without a mask does not count in the mask loss.
    assert data.images.has_mask.sum() == 4


def test_a_folder_without_good_parts_is_refused(tmp_path):
    save_image(tmp_path / "dent" / "0.png", 1)
    with pytest.raises(ValueError, match="needs a folder of good parts"):
        read_folder(tmp_path, 32, quiet)


def test_an_invalid_image_is_named(folder):
    (folder / "ok" / "x.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"x\.jpg: not a JPEG or PNG"):
        read_folder(folder, 32, quiet)


def test_whole_units_of_every_class_are_held_out():
    images = simulated(120)
    held_out = hold_out_units(images, 0.25, 0)
    assert not set(images.unit[held_out]) & set(images.unit[~held_out])
    assert 0 < held_out.mean() < 1


def test_a_class_with_too_few_tiles_is_named(tmp_path):
    make_tiles(tmp_path, 2)
    with pytest.raises(ValueError, match="good has 2 tiles, and each of 5 folds needs one"):
        evaluate(tmp_path, "efficientnet", [0], lambda title: nullcontext(quiet))


@pytest.mark.skipif(not TILES.exists(), reason=f"no images at {TILES}")
def test_the_magnetic_tiles_are_read_with_their_groups():
    data = read_folder(TILES, 32, quiet)
    assert len(data.images) == 1_344
    assert data.classes == ("good", "blowhole", "break", "crack", "fray", "uneven")
    assert np.bincount(data.images.label).tolist() == [952, 115, 85, 57, 32, 103]
    assert len(np.unique(data.images.unit)) == 184


def test_metrics_of_a_perfect_and_a_random_model():
    images = simulated(60)
    perfect = np.eye(6)[images.label]
    logits = np.where(images.mask, 5.0, -5.0)
    best = protocol_metrics(perfect, logits, images)
    assert best == {"auc": 1.0, "recall_at_5fpr": 1.0, "balanced_accuracy": 1.0, "miou": 1.0}
    random = protocol_metrics(np.full((60, 6), 1 / 6), np.full_like(logits, -5.0), images)
    assert random["auc"] == 0.5
    assert random["miou"] == 0.0


def test_an_interval_narrows_with_agreement():
    wide, narrow = Interval.of([0.7, 0.9, 0.8]), Interval.of([0.79, 0.81, 0.80])
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(0.8)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
