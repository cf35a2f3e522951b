"""Folds: what is tested, how they go on after a stop, and the split that leaks."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from services.cv_inspection.evaluation.cross_validation import folds as module
from services.cv_inspection.evaluation.cross_validation.folds import (
    Fold,
    FoldResult,
    Folds,
    evaluate_folds,
)
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.retraining.folders import FolderDataset
from tests.unit.cv_inspection.vision_fixtures import quiet

SIDE = 32
TINY = {
    "size": SIDE, "epochs": 1, "batch": 8, "pasted_share": 1.0, "pooled_dice_weight": 1.0,
    "lovasz_weight": 0.5, "class_map_weight": 0.5, "patch_weight": 0.5, "normalise_by_image": True,
    "novelty_weight": 0.5, "weights": "auto",
}  # fmt: skip


@pytest.fixture
def data():
    """12 groups of 2 images; half of them have a black square."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 110, (24, SIDE, SIDE, 3)).astype(np.uint8)
    mask = np.zeros((24, SIDE, SIDE), bool)
    mask[12:, 8:16, 8:16] = True
    pixels[mask] = 5
    images = LabelledImages.from_arrays(
        pixels, np.repeat([0, 1], 12), mask, np.arange(24) // 2, np.zeros((24, 4)), 6_000
    )
    return FolderDataset(images, ("good", "hole"))


def test_a_fold_is_trained_by_the_recipe_and_sees_nothing_of_its_groups(data):
    found = Folds(data, "efficientnet", TINY, count=3).evaluate(Fold(0, 0), quiet)
    assert len(found.image) == 8
    tested = set(data.images.unit[found.image])
    assert all(
        np.isin(np.flatnonzero(data.images.unit == unit), found.image).all() for unit in tested
    )
    assert np.allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-5)
    again = FoldResult.from_bytes(found.to_bytes())
    assert np.array_equal(again.probabilities, found.probabilities)
    assert 0.0 < again.max_novelty < np.inf


def test_folds_go_on_where_a_run_was_stopped(data, tmp_path, monkeypatch):
    plan, runs = (
        Folds(data, "efficientnet", TINY),
        [Fold(0, 0), Fold(0, 1), Fold(0, 0, leaking=True)],
    )
    trained = []

    def train(folds, open_runs, folder, finished, step):
        trained.append([run.name for run in open_runs])
        for run in open_runs[:1]:
            (folder / run.name).write_bytes(result(run).to_bytes())
        if len(open_runs) > 1:
            raise KeyboardInterrupt

    def result(run):
        count = run.number + 1
        empty = np.zeros((count, 2, 2), np.int64)
        return FoldResult(
            np.arange(count), np.zeros(count, np.int64), np.ones((count, 2)), np.zeros(count),
            empty, empty.astype(np.uint8), float("nan"),
        )  # fmt: skip

    monkeypatch.setattr(module, "_train", train)
    key = plan.key
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate_folds(plan, runs, tmp_path, quiet)
    results = evaluate_folds(plan, runs, tmp_path, quiet)
    assert [len(one.image) for one in results] == [1, 2, 1]
    assert trained == [
        ["0-0-0.npz", "0-1-0.npz", "0-0-0-leaking.npz"],
        ["0-1-0.npz", "0-0-0-leaking.npz"],
        ["0-0-0-leaking.npz"],
    ]
    # Other settings are other results.
    assert Folds(data, "efficientnet", {**TINY, "epochs": 2}).key != plan.key
    conf = tmp_path / "conf"
    shutil.copytree(module.CONF, conf)
    monkeypatch.setattr(module, "CONF", conf)
    assert plan.key == Folds(data, "efficientnet", TINY).key == key
    with (conf / "efficientnet.yaml").open("a") as file:
        file.write("\nanother: 1\n")
    assert plan.key != key


def test_a_random_split_puts_groups_on_both_sides(data, monkeypatch):
    fitted = []

    class Candidate:
        def __init__(self, *_):
            self.parameters, self.origin = {"max_reduction": 4}, "hub"

        def fit(self, train, validation, seed, step):
            fitted.append(set(train.unit))

        def predict(self, pixels):
            count = len(pixels)
            return module.Prediction(
                np.full((count, 2), 0.5, np.float32),
                np.zeros((count, SIDE, SIDE), np.float32),
                np.zeros(count, np.float32),
                np.zeros((count, 0, 0), np.float32),
            )

    monkeypatch.setattr(module, "new_candidate", Candidate)
    plan = Folds(data, "efficientnet", TINY, count=3)
    for leaking in (False, True):
        found = plan.evaluate(Fold(0, 0, leaking=leaking), quiet)
        assert FoldResult.from_bytes(found.to_bytes()).origin == "hub"
        assert found.max_novelty == np.inf  # this candidate measures none
        assert found.maps(0)[1] is None
        shared = fitted[-1] & set(data.images.unit[found.image])
        assert bool(shared) is leaking


def test_the_leaking_fold_keeps_the_tiles_of_an_image_together(data):
    images = replace(data.images, source=np.arange(24) // 2)
    plan = Folds(replace(data, images=images), "efficientnet", TINY, count=3)
    fit, test = plan._split(Fold(0, 1, leaking=True))
    assert sorted([*fit, *test]) == list(range(24))
    assert len(test) == 8
    assert not set(images.source[fit]) & set(images.source[test])


def test_folds_that_would_test_no_defect_are_refused(data):
    """Five groups are enough in number, but one has most of the images."""
    counts = [(6, 2), (5, 0), (9, 12), (12, 0), (3, 0), *[(0, 6)] * 6]
    label = np.concatenate([np.repeat([1, 0], two) for two in counts])
    unit = np.repeat(np.arange(len(counts)), [sum(two) for two in counts])
    rows = np.where(label == 1, 12, 0)
    images = replace(data.images.select(rows), label=label, positive=label > 0, unit=unit)
    plan = Folds(replace(data, images=images), "efficientnet", TINY)
    with pytest.raises(ValueError, match=r"fold \d of seed 0 would be tested on no defects"):
        plan.check([0])
