"""The contact sheet shows both stopped and passed parts."""

import io

import numpy as np
from PIL import Image

from services.cv_inspection.evaluation.folds import FoldResult
from services.cv_inspection.evaluation.map_sheet import Tile, draw_tiles
from services.cv_inspection.evaluation.run_report import select_for_sheet
from services.cv_inspection.ingestion.events import Decision, InspectionEvent
from services.platform.colour_scale import ABOVE


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
    assert np.array_equal(FoldResult.from_bytes(out.getvalue()).levels >= ABOVE, mask)
