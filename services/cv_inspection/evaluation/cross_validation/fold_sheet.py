"""Contact sheets of cross-validated images: image, predicted maps, and true outline."""

import logging
import math
from pathlib import Path

import numpy as np

from services.cv_inspection.evaluation.cross_validation.folds import SHEET_SIDE, FoldResult, Folds
from services.cv_inspection.evaluation.map_sheet import Tile, draw_tiles
from services.cv_inspection.retraining.folders import FolderDataset, read_labelled
from services.platform.settings import settings
from services.platform.types import Floats, Integers

log = logging.getLogger(__name__)

_MAX_TILES = 24
_DEFECT = (
    "left: P(defect) of a pixel, threshold 0.5, where the mask begins; "
    "dashed in black and white: the given outline"
)
_NOVELTY = (
    "right: novelty of a patch in standard deviations of the good parts, threshold {}; "
    "one in 200 good parts of training reaches it"
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


def draw_sheet(plan: Folds, results: list[FoldResult], images: list[int], path: Path) -> Path:
    """Draw some images of a folder with their predictions."""
    if any(math.isnan(fold.max_novelty) for fold in results):
        log.warning(
            "some folds keep no novelty of patches, and their images show none: an earlier version "
            "trained them. Remove %s to train them anew",
            plan.folder(settings().home),
        )
    at = {int(n): (fold, row) for fold in results for row, n in enumerate(fold.image)}
    tiles = [_tile(plan.data, image, *at[image]) for image in images[:_MAX_TILES]]
    legend = (_DEFECT, _NOVELTY.format(_range([fold.max_novelty for fold in results])))
    return draw_tiles(tiles, legend, SHEET_SIDE, path)


def _range(limits: list[float]) -> str:
    """The folds' limits in words.

    >>> _range([3.04, 3.31, float("nan")]), _range([3.0]), _range([float("nan")])
    ('3.0 to 3.3', '3.0', 'not known')
    """
    known = sorted({f"{limit:.1f}" for limit in limits if limit < math.inf}, key=float)
    return " to ".join(dict.fromkeys((known[0], known[-1]))) if known else "not known"


def _tile(data: FolderDataset, number: int, fold: FoldResult, row: int) -> Tile:
    file = data.files[number]
    image, true = read_labelled(file)
    what = f"{file.label}, P(defect) {fold.defect[row]:.2f}, novelty {fold.novelty[row]:.1f}"
    lines = (file.path.stem[-48:], what)
    return Tile(image, fold.maps(row), lines, outline=true)
