"""Folders of real pictures: both layouts, groups kept together, and what is wrong with a folder."""

from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.evaluation.magnetic_tile import Interval, evaluate, judge
from services.cv_inspection.retraining.folders import read
from services.cv_inspection.retraining.training import held_out
from tests.conftest import DATA
from tests.unit.cv_inspection.vision_fixtures import make_tiles, quiet, shown

TILES = DATA / "magnetic_tile"


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        picture(tmp_path / "ok" / f"{number}.png", 100)
        picture(tmp_path / "dent" / f"{number}.png", 50)
    picture(tmp_path / "dent" / "0_mask.png", 255)
    return tmp_path


def test_a_folder_of_classes_is_read(folder):
    found = read(folder, 32, quiet)
    assert found.classes == ("good", "dent")
    assert len(found.pictures) == 6
    assert found.pictures.positive.sum() == 3
    assert found.pictures.mask.any(axis=(1, 2)).sum() == 1
    # A defect that nobody outlined is no lesson in where.
    assert found.pictures.outlined.sum() == 4


def test_a_folder_without_good_parts_is_refused(tmp_path):
    picture(tmp_path / "dent" / "0.png", 1)
    with pytest.raises(ValueError, match="needs a folder of good parts"):
        read(tmp_path, 32, quiet)


def test_a_file_that_is_no_picture_is_named(folder):
    (folder / "ok" / "x.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"x\.jpg: no JPEG or PNG"):
        read(folder, 32, quiet)


def test_whole_units_are_held_out_and_no_class_is_missing():
    pictures = shown(120)
    late = held_out(pictures, 0.25, 0)
    assert not set(pictures.unit[late]) & set(pictures.unit[~late])
    assert 0 < late.mean() < 1


def test_a_class_of_too_few_tiles_is_named(tmp_path):
    make_tiles(tmp_path, 2)
    with pytest.raises(ValueError, match="good has 2 tiles, and each of 5 folds needs one"):
        evaluate(tmp_path, "efficientnet", [0], lambda title: nullcontext(quiet))


@pytest.mark.skipif(not TILES.exists(), reason=f"no pictures at {TILES}")
def test_the_magnetic_tiles_are_read_with_their_groups():
    found = read(TILES, 32, quiet)
    assert len(found.pictures) == 1_344
    assert found.classes == ("good", "blowhole", "break", "crack", "fray", "uneven")
    assert np.bincount(found.pictures.label).tolist() == [952, 115, 85, 57, 32, 103]
    assert len(np.unique(found.pictures.unit)) == 184


def test_the_protocol_judges_a_perfect_and_a_blind_model():
    pictures = shown(60)
    perfect = np.eye(6)[pictures.label]
    drawn = np.where(pictures.mask, 5.0, -5.0)
    best = judge(perfect, drawn, pictures)
    assert best == {"auc": 1.0, "recall_at_5fpr": 1.0, "balanced_accuracy": 1.0, "miou": 1.0}
    blind = judge(np.full((60, 6), 1 / 6), np.full_like(drawn, -5.0), pictures)
    assert blind["auc"] == 0.5
    assert blind["miou"] == 0.0


def test_an_interval_narrows_with_agreement():
    wide, narrow = Interval.of([0.7, 0.9, 0.8]), Interval.of([0.79, 0.81, 0.80])
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(0.8)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
