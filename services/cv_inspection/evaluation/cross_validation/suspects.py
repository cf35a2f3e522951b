"""Suspect labels: images whose label or outline a model that did not see them contradicts.

Out-of-fold probability of the given label, low first (Northcutt et al., "Confident Learning", 2021:
self-confidence, section 3.2), less the mean of that probability over its class, so that the class
which the model knows less well does not fill the list. It is averaged over a part's images with one
label: a wrong label is doubted under all lights, a glint under one.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

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
        suspicion: 0..1, the likeliest wrong first; of all images of the part with this label.
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
    doubts = _doubts(data, results)
    found = [
        _suspect(data, fold, row, folder, labels, doubts)
        for fold in results
        for row in range(len(fold.image))
    ]
    best: dict[str, Suspect] = {}
    for suspect in sorted(found, key=_order):
        best.setdefault(suspect.group, suspect)
    return list(best.values())[:_MAX_SUSPECTS]


def _order(suspect: Suspect) -> tuple[float, float]:
    """The most suspect first; of a part's images the one that is doubted most."""
    defect = suspect.defect
    return -suspect.suspicion, defect if suspect.label != GOOD else -defect


def _doubts(data: FolderDataset, results: list[FoldResult]) -> dict[tuple[str, str], float]:
    """By group and label: 1 - adjusted P of that label, good or defective, over the images."""
    of_images: dict[tuple[str, str], list[float]] = defaultdict(list)
    for fold in results:
        for number, defect in zip(fold.image, fold.defect, strict=True):
            file = data.files[int(number)]
            of_images[file.group, file.label].append(float(defect))
    defect = {key: float(np.mean(found)) for key, found in of_images.items()}
    good = np.array([label == GOOD for _, label in defect])
    mean = np.array(list(defect.values()))
    p = np.stack([1 - mean, mean], axis=1)
    if good.any() and not good.all():
        confidence = np.array([p[good, 0].mean(), p[~good, 1].mean()])
        p = p - confidence + confidence.max()
        p /= p.sum(axis=1, keepdims=True)
    return dict(zip(defect, np.where(good, p[:, 1], p[:, 0]).tolist(), strict=True))


def _suspect(
    data: FolderDataset,
    fold: FoldResult,
    row: int,
    folder: Path,
    labels: dict[str, set[str]],
    doubts: dict[tuple[str, str], float],
) -> Suspect:
    file = data.files[int(fold.image[row])]
    intersection, union = fold.overlap[row, 1]
    iou = float(intersection / union) if union else float("nan")
    doubt = doubts[file.group, file.label]
    reason = "looks defective" if file.label == GOOD else "looks good"
    if doubt < _SURE:
        reason = ""
        if iou < _BAD_IOU:
            doubt, reason = max(doubt, _SURE * (1.0 - iou)), f"outline meets the mask to {iou:.0%}"
    if len(labels[file.group]) > 1:
        others = ", ".join(sorted(labels[file.group] - {file.label}))
        reason = "; ".join(filter(None, (reason, f"its part is also labelled {others}")))
    predicted = data.classes[int(fold.probabilities[row].argmax())]
    path = file.path.relative_to(folder).as_posix()
    defect = float(fold.defect[row])
    return Suspect(path, file.group, file.label, predicted, defect, iou, doubt, reason)


def as_json(found: list[Suspect], sheet: Path) -> dict[str, object]:
    """For machines."""
    return {"suspects": [asdict(one) for one in found], "contact_sheet": str(sheet)}
