"""Folders of real images: both layouts, groups kept together, invalid folders."""

import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.evaluation.cross_validation import protocols
from services.cv_inspection.evaluation.cross_validation.fold_metrics import Interval, fold_metrics
from services.cv_inspection.evaluation.cross_validation.folds import FoldResult
from services.cv_inspection.evaluation.cross_validation.protocols import evaluation
from services.cv_inspection.evaluation.cross_validation.suspects import rank
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.retraining.folders import read_folder
from services.cv_inspection.retraining.training import (
    folder_split,
    hold_out_units,
    new_candidate,
)
from services.platform.hooks import EvaluationRequest
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


def of_units(unit, label):
    """Labelled images without pixels."""
    count = len(unit)
    return LabelledImages.from_arrays(
        np.zeros((count, 1, 1, 3), np.uint8), label, np.zeros((count, 1, 1), bool), unit,
        np.zeros((count, 4)), 0.0,
    )  # fmt: skip


@pytest.mark.parametrize(("lots", "share"), [(162, 0.3), (40, 0.3), (2, 0.5)])
def test_lots_that_show_several_classes_are_held_out_once(lots, share):
    """A lot of the line has good parts and defects of each kind."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(lots), 50)
    label = rng.choice(6, len(unit), p=[0.9, 0.04, 0.02, 0.02, 0.01, 0.01])
    for seed in range(5):
        held_out = hold_out_units(of_units(unit, label), share, seed)
        assert held_out.mean() == pytest.approx(share, abs=0.06)
        assert not set(unit[held_out]) & set(unit[~held_out])
        assert set(label[held_out]) == set(label)


def bar(_):
    return nullcontext(quiet)


def test_a_class_with_too_few_tiles_is_named(tmp_path, parts):
    make_tiles(tmp_path / "tiles", 2)
    tmp_path = tmp_path / "tiles"
    with pytest.raises(ValueError, match=r"good has 2 groups .*, and each of 5 folds needs one"):
        evaluation(EvaluationRequest(tmp_path, "efficientnet", 0, 1, False), bar)
    with pytest.raises(ValueError, match="is not the magnetic tiles"):
        evaluation(EvaluationRequest(parts, "efficientnet", 0, 1, False, "magnetic_tile"), bar)


def sure_folds(monkeypatch):
    """Folds that are sure of each label, in place of training; what they were asked to do."""
    asked = []

    def folds(plan, runs, *_):
        asked.append((plan, runs))
        images = plan.data.images
        p = np.eye(2)[images.label] * 0.8 + 0.1
        return [fold_of(images, p, np.zeros_like(images.mask)) for _ in runs]

    monkeypatch.setattr(protocols, "evaluate_folds", folds)
    monkeypatch.setattr(protocols, "draw_sheet", lambda *_: None)
    return asked


def test_a_folder_of_ones_own_is_not_called_magnetic_tiles(parts, monkeypatch):
    """Its groups.csv does not make it the published data set."""
    rows = [f"{p.relative_to(parts).as_posix()},{p.stem}" for p in parts.rglob("*.png")]
    (parts / "groups.csv").write_text("\n".join(["path,group", *rows]))

    runs = sure_folds(monkeypatch)
    found = evaluation(EvaluationRequest(parts, "efficientnet", 0, 1, False), bar)
    assert found.figures["protocol"] == "grouped"
    assert parts.name in found.table.title
    # Nothing is outlined, so there is no IoU.
    assert ("miou", "-", "-") in found.table.rows
    [(plan, folds)] = runs
    assert plan.choose_threshold
    assert not any(fold.leaking for fold in folds)


def test_contact_sheets_of_folders_with_one_name_are_apart(parts, tmp_path_factory, monkeypatch):
    sure_folds(monkeypatch)
    sheets = set()
    for line in ("a", "b"):
        folder = tmp_path_factory.mktemp(line) / "images"
        shutil.copytree(parts, folder)
        if line == "b":
            save_image(next(folder.rglob("*.png")), 7)
        found = evaluation(EvaluationRequest(folder, "efficientnet", 0, 1, False), bar)
        sheets.add(found.figures["contact_sheet"])
    assert len(sheets) == 2


@pytest.mark.skipif(not TILES.exists(), reason=f"no images at {TILES}")
def test_the_magnetic_tiles_are_read_with_their_groups():
    data = read_folder(TILES, 32, quiet)
    assert len(data.images) == 1_344
    assert data.classes == ("good", "blowhole", "break", "crack", "fray", "uneven")
    assert np.bincount(data.images.label).tolist() == [952, 115, 85, 57, 32, 103]
    assert len(np.unique(data.images.unit)) == 184


def fold_of(images, probabilities, mask, threshold=0.5):
    count = len(images)
    both = np.array(
        [[(m & t).sum(), (m | t).sum()] for m, t in zip(mask, images.mask, strict=True)]
    )
    overlap = np.repeat(both[:, None], 2, axis=1)
    blank = np.zeros((count, 2, 2), np.uint8)
    return FoldResult(
        np.arange(count), images.label, probabilities, np.zeros(count), overlap, blank, threshold
    )


def test_metrics_of_a_perfect_and_a_random_model():
    images = simulated(60)
    best = fold_metrics(fold_of(images, np.eye(6)[images.label], images.mask))
    assert best.pop("cost_1000") == 0.0
    assert set(best.values()) == {1.0}
    nothing = np.zeros_like(images.mask)
    random = fold_metrics(fold_of(images, np.full((60, 6), 1 / 6), nothing, float("nan")))
    assert random["auc"] == 0.5
    assert random["miou"] == random["miou_native"] == 0.0
    assert "cost_1000" not in random


def test_a_fold_is_kept_as_it_was():
    images = simulated(10)
    fold = replace(fold_of(images, np.eye(6)[images.label], images.mask), origin="hub")
    again = vars(FoldResult.from_bytes(fold.to_bytes()))
    for name, value in vars(fold).items():
        np.testing.assert_array_equal(again[name], value)
    assert again["origin"] == "hub"


def test_mvtec_layout_is_read(tmp_path):
    for number in range(2):
        save_image(tmp_path / "train" / "good" / f"{number}.png", 100 + number)
        save_image(tmp_path / "test" / "good" / f"{number}.png", 110 + number)
        save_image(tmp_path / "test" / "bent" / f"{number}.png", 50 + number)
        save_image(tmp_path / "ground_truth" / "bent" / f"{number}_mask.png", 255)
    data = read_folder(tmp_path, 32, quiet)
    assert data.classes == ("good", "bent")
    assert data.images.label.tolist().count(0) == 4
    assert data.images.mask.any(axis=(1, 2)).sum() == 2
    assert not data.grouped
    save_image(tmp_path / "ground_truth" / "bent" / "7_mask.png", 255)
    with pytest.raises(ValueError, match=r"7_mask\.png: a mask without its image"):
        read_folder(tmp_path, 32, quiet)


@pytest.fixture
def parts(tmp_path):
    for number in range(6):
        save_image(tmp_path / "good" / f"kos{number // 2}_{number}.png", 100 + number)
        save_image(tmp_path / "dent" / f"kos{number // 2}_{number}.png", 50 + number)
    return tmp_path


def test_groups_come_from_a_pattern_or_a_file(parts):
    alone = read_folder(parts, 32, quiet)
    assert len(np.unique(alone.images.unit)) == 12
    assert not alone.grouped
    named = read_folder(parts, 32, quiet, group_by=r"kos(\d+)")
    assert named.grouped
    assert len(np.unique(named.images.unit)) == 3
    with pytest.raises(ValueError, match=r"--group-by 'part' is not found"):
        read_folder(parts, 32, quiet, group_by="part")
    with pytest.raises(ValueError, match="not a regular expression"):
        read_folder(parts, 32, quiet, group_by="kos(")
    rows = [f"{p.relative_to(parts).as_posix()},{p.stem[:4]}" for p in parts.rglob("*.png")]
    (parts / "groups.csv").write_text("\n".join(["path,group", *rows]))
    assert len(np.unique(read_folder(parts, 32, quiet).images.unit)) == 3
    (parts / "groups.csv").write_text("\n".join(["path,group", *rows[1:]]))
    with pytest.raises(ValueError, match="has no row for it; add its group"):
        read_folder(parts, 32, quiet)
    (parts / "groups.csv").write_text("file,group\n")
    with pytest.raises(ValueError, match="no column path"):
        read_folder(parts, 32, quiet)


def test_copies_join_their_groups_and_may_not_be_of_two_classes(parts):
    save_image(parts / "good" / "kos9_0.png", 100)
    data = read_folder(parts, 32, quiet, group_by=r"kos(\d+)")
    assert [sorted(path.name for path in copies) for copies in data.duplicates] == [
        ["kos0_0.png", "kos9_0.png"]
    ]
    assert len(np.unique(data.images.unit)) == 3
    save_image(parts / "dent" / "kos8_0.png", 100)
    with pytest.raises(ValueError, match="are one image in two classes: remove one"):
        read_folder(parts, 32, quiet)


def test_one_group_alone_is_refused(parts):
    with pytest.raises(ValueError, match="two groups"):
        folder_split(parts, "kos", False, 0, (32, 32), 4.0, lambda _: nullcontext(quiet))


def test_good_parts_alone_are_enough_for_a_candidate_that_needs_no_defects(tmp_path):
    for number in range(8):
        save_image(tmp_path / "good" / f"{number}.png", 100 + number)
    with pytest.raises(ValueError, match="train --candidate normality"):
        read_folder(tmp_path, 32, quiet)
    split = folder_split(tmp_path, "", True, 0, (64, 64), 4.0, lambda _: nullcontext(quiet))
    assert split.classes == ("good", "defect")
    made = new_candidate("normality", split.classes, {"size": 64})
    made.fit(split.train, split.validation, 0, quiet)
    odd = np.full((1, 64, 64, 3), 105, np.uint8)
    odd[0, 20:40, 20:40] = 250
    assert made.predict(odd).masks[0, 30, 30] > 0
    assert made.predict(odd).probabilities[0, 0] < made.predict(split.validation.vectors)[0].min()


def test_a_mask_of_another_shape_is_named(parts):
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(parts / "dent" / "kos0_0_mask.png")
    with pytest.raises(ValueError, match=r"kos0_0_mask\.png: mask of 32 x 64 pixels") as found:
        read_folder(parts, 32, quiet)
    assert "export the mask at the image's size" in str(found.value)
    assert "kos0_0.png)" in str(found.value)


def test_suspects_are_ranked(parts):
    """A good part that looks defective comes first; a part that has two labels says so."""
    data = read_folder(parts, 32, quiet)
    images = data.images
    sure = np.eye(2)[images.label] * 0.8 + 0.1
    wrong = int(np.flatnonzero(images.label == 0)[2])
    sure[wrong] = [0.02, 0.98]
    fold = fold_of(images, sure, np.zeros_like(images.mask))
    found = rank(data, [fold], parts)
    assert found[0].path == data.files[wrong].path.relative_to(parts).as_posix()
    assert found[0].reason == "looks defective"
    both = read_folder(parts, 32, quiet, group_by=r"kos(\d+)")
    found = rank(both, [fold], parts)
    assert all("also labelled" in one.reason for one in found)
    assert len(found) == len({file.group for file in both.files})


def test_a_part_is_suspect_by_all_its_images_beside_its_class(tmp_path):
    """B has a glint under one light; the model knows no dent surely, F no less than others."""
    defect = {
        "good/A": (0.6, 0.6), "good/B": (0.9, 0.05), "good/C": (0.05, 0.05),
        "dent/D": (0.55, 0.55), "dent/E": (0.5, 0.5), "dent/F": (0.45, 0.45),
    }  # fmt: skip
    values = iter(range(50, 200, 3))
    for name in defect:
        for light in range(2):
            save_image(tmp_path / f"{name}_{light}.png", next(values))
    data = read_folder(tmp_path, 32, quiet, group_by=r"/([A-F])_")
    by_path = {f"{name}_{n}.png": p for name, two in defect.items() for n, p in enumerate(two)}
    p = np.array([by_path[file.path.relative_to(tmp_path).as_posix()] for file in data.files])
    images = data.images
    found = rank(data, [fold_of(images, np.stack([1 - p, p], 1), images.mask)], tmp_path)
    assert [suspect.group for suspect in found] == list("ABFEDC")
    assert found[1].path == "good/B_0.png"
    assert found[1].suspicion == pytest.approx(0.6 / (0.6 + 0.525))


def test_a_wrong_kind_of_defect_is_suspect(tmp_path):
    for value in range(12):
        kind = ("good", "crack", "dent")[value % 3]
        save_image(tmp_path / kind / f"{value // 3}.png", 10 * value)
    data = read_folder(tmp_path, 32, quiet)
    p = np.eye(3)[data.images.label] * 0.94 + 0.02
    wrong = int(np.flatnonzero(data.images.label == 1)[2])
    p[wrong] = [0.001, 0.001, 0.998]
    found = rank(data, [fold_of(data.images, p, data.images.mask)], tmp_path)
    assert (found[0].path, found[0].reason) == ("crack/2.png", "looks like dent")
    assert found[0].suspicion > 0.6 > 0.2 > found[1].suspicion


def test_an_interval_narrows_with_agreement():
    wide, narrow = Interval.of([0.7, 0.9, 0.8]), Interval.of([0.79, 0.81, 0.80])
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(0.8)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
