"""Suspect labels: images whose label or outline a model that did not see them contradicts.

Out-of-fold probability of the given label, low first (Northcutt et al., "Confident Learning", 2021:
self-confidence, section 3.2). A part that is good in some of its images and defective in others
contradicts itself: that counts half, and the model's doubt the other half.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from services.cv_inspection.evaluation.cross_validation.fold_sheet import draw_sheet
from services.cv_inspection.evaluation.cross_validation.folds import (
    FOLDS,
    Fold,
    FoldResult,
    Folds,
    evaluate_folds,
)
from services.cv_inspection.evaluation.cross_validation.magnetic_tile import read_for_folds
from services.cv_inspection.problem import GOOD
from services.cv_inspection.retraining.folders import FolderDataset
from services.cv_inspection.retraining.recipe import recipe
from services.platform.progress import ProgressBar
from services.platform.settings import settings

_MAX_SUSPECTS = 50
# An outline is suspect where the image is surely defective and the mask hardly meets it.
_SURE, _BAD_IOU = 0.5, 0.3


@dataclass(frozen=True)
class Suspect:
    """One image to look at.

    Attributes:
        path: Of the image, below the folder.
        group: Its part.
        label: Given.
        predicted: The most probable class.
        defect: P(defect).
        iou: Of the outline at the image's own size, NaN without one.
        suspicion: 0..1, the likeliest wrong first.
        reason: Why, in a clause.
    """

    path: str
    group: str
    label: str
    predicted: str
    defect: float
    iou: float
    suspicion: float
    reason: str


@dataclass(frozen=True)
class SuspectRequest:
    """What is searched, and how.

    Attributes:
        folder: Of labelled images.
        group_by: See `find_files`.
        epochs: Of training; 0 for the recipe's.
        image_size: Of the model's input, a side or HEIGHTxWIDTH; empty for the recipe's.
    """

    folder: Path
    candidate: str
    group_by: str
    seed: int
    epochs: int
    image_size: str = ""


def find_suspects(request: SuspectRequest, bar: ProgressBar) -> tuple[list[Suspect], Path]:
    """The suspects, the likeliest first, and their contact sheet.

    Raises:
        KeyError: no such candidate.
        ValueError: the folder is not usable, see `read_folder`.
    """
    overrides = recipe(request.candidate, request.epochs, request.image_size)
    data = read_for_folds(request.folder, request.candidate, overrides, request.group_by, bar)
    plan = Folds(data, request.candidate, overrides)
    plan.check()
    runs = [Fold(request.seed, number) for number in range(FOLDS)]
    with bar(f"{FOLDS} folds") as step:
        results = evaluate_folds(plan, runs, settings().home, step)
    found = rank(data, results, request.folder)
    numbers = {file.path: n for n, file in enumerate(data.files)}
    sheet = settings().home / "evaluations" / f"{request.folder.name}-suspects.png"
    shown = [numbers[request.folder / suspect.path] for suspect in found]
    return found, draw_sheet(plan, results, shown, sheet)


def rank(data: FolderDataset, results: list[FoldResult], folder: Path) -> list[Suspect]:
    """The most suspect image of each group, of out-of-fold results."""
    labels: dict[str, set[str]] = defaultdict(set)
    for file in data.files:
        labels[file.group].add(file.label)
    found = [
        _suspect(data, fold, row, folder, labels)
        for fold in results
        for row in range(len(fold.image))
    ]
    best: dict[str, Suspect] = {}
    for suspect in sorted(found, key=lambda one: -one.suspicion):
        best.setdefault(suspect.group, suspect)
    return list(best.values())[:_MAX_SUSPECTS]


def _suspect(
    data: FolderDataset, fold: FoldResult, row: int, folder: Path, labels: dict[str, set[str]]
) -> Suspect:
    file = data.files[int(fold.image[row])]
    defect = float(fold.defect[row])
    intersection, union = fold.overlap[row, 1]
    iou = float(intersection / union) if union else float("nan")
    doubt = defect if file.label == GOOD else 1.0 - defect
    reason = "looks defective" if file.label == GOOD else "looks good"
    if doubt < _SURE:
        reason = ""
        if iou < _BAD_IOU:
            doubt, reason = max(doubt, _SURE * (1.0 - iou)), f"outline meets the mask to {iou:.0%}"
    both = GOOD in labels[file.group] and len(labels[file.group]) > 1
    if both:
        others = ", ".join(sorted(labels[file.group] - {file.label}))
        reason = "; ".join(filter(None, (reason, f"its part is also labelled {others}")))
        doubt = 0.5 + 0.5 * doubt
    predicted = data.classes[int(fold.probabilities[row].argmax())]
    path = file.path.relative_to(folder).as_posix()
    return Suspect(path, file.group, file.label, predicted, defect, iou, doubt, reason)


def as_json(found: list[Suspect], sheet: Path) -> dict[str, object]:
    """For machines."""
    return {"suspects": [asdict(one) for one in found], "contact_sheet": str(sheet)}
