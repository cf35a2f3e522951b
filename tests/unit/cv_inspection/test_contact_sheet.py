"""The contact sheet shows both stopped and passed parts."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.candidates.image_candidate import Prediction
from services.cv_inspection.evaluation.cross_validation import folds
from services.cv_inspection.evaluation.cross_validation.fold_sheet import draw_sheet
from services.cv_inspection.evaluation.cross_validation.folds import Fold, FoldResult, Folds
from services.cv_inspection.evaluation.map_sheet import Tile, draw_tiles
from services.cv_inspection.evaluation.run_report import select_for_sheet
from services.cv_inspection.ingestion.events import Decision, InspectionEvent
from services.cv_inspection.retraining.folders import FolderDataset, read_folder
from services.platform.colour_scale import ABOVE
from tests.unit.cv_inspection.vision_fixtures import quiet


def event(decision: Decision, defect: float) -> InspectionEvent:
    return InspectionEvent.model_construct(decision=decision, defect=defect)


def test_one_row_is_kept_for_passed_parts() -> None:
    stopped = [event("reject", 0.5 + n / 100) for n in range(40)]
    chosen = select_for_sheet([event("pass", 0.01 * n) for n in range(18)] + stopped)
    assert [e.decision for e in chosen] == ["reject"] * 18 + ["pass"] * 6
    assert [e.defect for e in chosen[:2]] == [0.89, 0.88]
    # Spread over all passed parts.
    assert [e.defect for e in chosen[18:]] == [0.17, 0.14, 0.11, 0.08, 0.05, 0.02]


def test_stopped_parts_fill_the_rest() -> None:
    chosen = select_for_sheet([event("pass", 0.0)] + [event("review", 0.3)] * 40)
    assert [e.decision for e in chosen] == ["review"] * 23 + ["pass"]


def test_few_images_are_all_shown() -> None:
    assert len(select_for_sheet([event("pass", 0.0)] * 3 + [event("reject", 0.9)] * 2)) == 5
    assert select_for_sheet([]) == []


def test_a_sheet_shows_maps_a_missing_one_and_the_legend(tmp_path) -> None:
    levels = np.zeros((64, 64), np.uint8)
    levels[16:48, 16:48] = 255
    image = Image.new("RGB", (300, 120), (90, 90, 90))
    tiles = [Tile(image, (levels, None), ("a", "b"), outline=Image.fromarray(levels))] * 4
    path = draw_tiles(tiles, ("left", "right"), 60, tmp_path / "sheet.png")
    drawn = np.asarray(Image.open(path))
    # Three across, two rows; a grey picture with yellow inside the square, nothing where no map is.
    red, _, blue = (int(value) for value in drawn[8 + 30, 8 + 30])
    assert red > 200 > 120 > blue
    assert len(set(drawn[8 + 5, 8 + 5].tolist())) == 1
    assert drawn[8 + 40, 8 + 68 + 30].tolist() == drawn[0, 0].tolist()


def test_a_fold_from_before_levels_shows_its_mask() -> None:
    out = io.BytesIO()
    mask = np.eye(4, dtype=bool)[None]
    old = {name: np.zeros(1) for name in ("image", "label", "probabilities", "novelty", "overlap")}
    np.savez_compressed(out, **old, mask=mask, threshold=0.5)
    fold = FoldResult.from_bytes(out.getvalue())
    assert np.array_equal(fold.levels >= ABOVE, mask)
    assert fold.maps(0)[1] is None


class Unlike:
    """Finds a dent novel that its mask does not show."""

    def __init__(self, *_) -> None:
        self.parameters, self.origin = {"max_reduction": 4}, ""

    def fit(self, train, *_) -> None:
        assert len(train)

    def predict(self, pixels) -> Prediction:
        dark = pixels.min(axis=3) < 40
        patches = dark.reshape(len(pixels), 4, 8, 4, 8).any(axis=(2, 4)) * 9.0
        # Of 2 limits of 1 that good parts have.
        patches = (patches + np.linspace(0.9, 1.0, len(pixels))[:, None, None]).astype(np.float32)
        probabilities = np.full((len(pixels), 2), 0.5)
        masks = np.full((len(pixels), 32, 32), -9.0, np.float32)
        return Prediction(probabilities, masks, patches.max(axis=(1, 2)), patches)


@pytest.fixture
def folder(tmp_path) -> FolderDataset:
    for number in range(12):
        for kind in ("good", "dent"):
            image = Image.new("RGB", (64, 64), (120, 120, 120 + number))
            if kind == "dent":
                image.paste((10, 10, 10), (0, 0, 32, 32))
            (tmp_path / kind).mkdir(exist_ok=True)
            image.save(tmp_path / kind / f"kos{number}_{kind}.png")
    return read_folder(tmp_path, 32, quiet, group_by=r"kos(\d+_\w)")


def test_the_worst_errors_show_mask_and_novelty(folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(folds, "new_candidate", Unlike)
    plan = Folds(folder, "efficientnet", {}, count=2)
    result = plan.evaluate(Fold(0, 0), quiet)
    dent = int(result.image[result.label == 1][0])
    path = draw_sheet(plan, [result], [dent], tmp_path / "sheet.png")
    assert not caplog.records
    drawn = np.asarray(Image.open(path)).astype(int)
    side = folds.SHEET_SIDE
    left, right = (drawn[8 + side // 4, 8 + side // 4 + n * (side + 8)] for n in (0, 1))
    assert len(set(left.tolist())) == 1  # no P(defect): the photograph's grey
    assert right[0] > 200 > right[2]  # novel: yellow
    sound = drawn[8 + 3 * side // 4, 8 + side + 8 + 3 * side // 4]
    assert sound[2] > sound[0]  # at its limit: blue
    old = FoldResult(**{**vars(result), "max_novelty": math.nan, "novelty_levels": np.zeros((0,))})
    draw_sheet(plan, [FoldResult.from_bytes(old.to_bytes())], [dent], tmp_path / "sheet.png")
    assert "Remove" in caplog.text
    assert plan.key in caplog.text
