"""Contact sheets of cross-validated images: image, predicted mask in red, true outline in green."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from services.cv_inspection.evaluation.folds import SHEET_SIDE, FoldResult
from services.cv_inspection.retraining.folders import FolderDataset, read_labelled
from services.platform.types import Floats, Integers

_ACROSS, _MAX_TILES, _GAP, _CAPTION = 6, 24, 8, 32
_RED, _GREEN, _GREY = (255, 40, 40), (60, 220, 90), (200, 200, 200)


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
    images = images[:_MAX_TILES]
    rows = max(-(-len(images) // _ACROSS), 1)
    step = SHEET_SIDE + _GAP
    sheet = Image.new("RGB", (_ACROSS * step + _GAP, rows * (step + _CAPTION) + _GAP), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        fold, row = at[image]
        x, y = _GAP + number % _ACROSS * step, _GAP + number // _ACROSS * (step + _CAPTION)
        sheet.paste(_overlaid(data, image, fold.mask[row]), (x, y))
        file = data.files[image]
        lines = (file.path.stem[-24:], f"{file.label}, P(defect) {fold.defect[row]:.2f}")
        for line, text in enumerate(lines):
            draw.text((x, y + SHEET_SIDE + 2 + 13 * line), text, fill=_GREY, font_size=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _overlaid(data: FolderDataset, number: int, mask: np.ndarray) -> Image.Image:
    image, true = read_labelled(data.files[number])
    side = (SHEET_SIDE, SHEET_SIDE)
    small = image.resize(side)
    predicted = Image.fromarray(mask).convert("L").point(lambda v: v * 0.45)
    small = Image.composite(Image.new("RGB", side, _RED), small, predicted)
    if true is not None:
        outline = np.asarray(true.resize(side)) > 127
        inner = outline.copy()
        inner[1:-1, 1:-1] &= outline[:-2, 1:-1] & outline[2:, 1:-1]
        inner[1:-1, 1:-1] &= outline[1:-1, :-2] & outline[1:-1, 2:]
        edge = Image.fromarray(outline & ~inner)
        small.paste(_GREEN, (0, 0), edge.convert("L"))
    return small
