"""Contact sheets of cross-validated images: image, predicted map, and true outline."""

from pathlib import Path

import numpy as np

from services.cv_inspection.evaluation.folds import SHEET_SIDE, FoldResult
from services.cv_inspection.evaluation.map_sheet import Tile, draw_tiles
from services.cv_inspection.retraining.folders import FolderDataset, read_labelled
from services.platform.types import Floats, Integers

_MAX_TILES = 24
_LEGEND = (
    "P(defect) of a pixel, threshold 0.5, where the mask begins; "
    "dashed in black and white: the given outline",
)


def joined(results: list[FoldResult]) -> tuple[Integers, Integers, Floats]:
    """(M,) image, (M,) label and (M,) P(defect) of all folds."""
    parts = [(fold.image, fold.label, fold.defect) for fold in results]
    image, label, defect = (np.concatenate(part) for part in zip(*parts, strict=True))
    return image, label, defect


def worst_errors(results: list[FoldResult]) -> list[int]:
    """Numbers of the images whose label the prediction contradicts most, the worst first."""
    image, label, defect = joined(results)
    wrong = np.where(label > 0, 1.0 - defect, defect)
    order = image[np.argsort(-wrong, kind="stable")]
    return list(dict.fromkeys(int(number) for number in order))[:_MAX_TILES]


def draw_sheet(
    data: FolderDataset, results: list[FoldResult], images: list[int], path: Path
) -> Path:
    """Draw some images of a folder with their predictions."""
    at = {int(n): (fold, row) for fold in results for row, n in enumerate(fold.image)}
    tiles = [_tile(data, image, *at[image]) for image in images[:_MAX_TILES]]
    return draw_tiles(tiles, _LEGEND, SHEET_SIDE, path)


def _tile(data: FolderDataset, number: int, fold: FoldResult, row: int) -> Tile:
    file = data.files[number]
    image, true = read_labelled(file)
    lines = (file.path.stem[-24:], f"{file.label}, P(defect) {fold.defect[row]:.2f}")
    return Tile(image, (fold.levels[row],), lines, outline=true)
