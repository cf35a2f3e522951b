"""Suspect labels: images whose label or outline a model that did not see them contradicts.

Out-of-fold probability of the given label, low first (Northcutt et al., "Confident Learning", 2021:
self-confidence, section 3.2), less the mean of that probability over its class, so that the class
which the model knows less well does not fill the list: of good against defective, and of a defect's
class against the others. It is averaged over a part's images with one label: a wrong label is
doubted under all lights, a glint under one.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.cv_inspection.evaluation.cross_validation.fold_sheet import draw_sheet
from services.cv_inspection.evaluation.cross_validation.folds import (
    FOLDS,
    Fold,
    FoldResult,
    Folds,
    evaluate_folds,
)
from services.cv_inspection.evaluation.cross_validation.protocols import read_for_folds
from services.cv_inspection.problem import GOOD
from services.cv_inspection.retraining.folders import FolderDataset
from services.cv_inspection.retraining.recipe import recipe
from services.platform.progress import ProgressBar
from services.platform.settings import settings
from services.platform.types import Floats, Integers

_MAX_SUSPECTS = 50
# A label is suspect from this doubt on. An outline is where its label is not, and the mask hardly
# meets it.
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
    plan.check([request.seed])
    runs = [Fold(request.seed, number) for number in range(FOLDS)]
    with bar(f"{FOLDS} folds") as step:
        results = evaluate_folds(plan, runs, settings().home, step)
    found = rank(data, results, request.folder)
    numbers = {file.path: n for n, file in enumerate(data.files)}
    sheet = plan.folder(settings().home) / "suspects.png"
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


class _Doubt(NamedTuple):
    """How little the model believes a label, 0..1.

    Attributes:
        defect: That the part is good, or that it is not.
        kind: Of a defect, its class: .5 where another is as likely.
    """

    defect: float
    kind: float


def _doubts(data: FolderDataset, results: list[FoldResult]) -> dict[tuple[str, str], _Doubt]:
    """By group and label."""
    of_images: dict[tuple[str, str], list[Floats]] = defaultdict(list)
    for fold in results:
        for number, probabilities in zip(fold.image, fold.probabilities, strict=True):
            file = data.files[int(number)]
            of_images[file.group, file.label].append(probabilities)
    p = np.array([np.mean(found, axis=0) for found in of_images.values()])
    label = np.array([data.classes.index(name) for _, name in of_images])
    bad = label > 0
    defect = 1.0 - _own(_adjusted(np.stack([p[:, 0], 1.0 - p[:, 0]], axis=1), bad * 1), bad * 1)
    kind = np.zeros(len(p))
    if bad.any() and len(data.classes) > 2:
        of_defects = p[bad, 1:] / p[bad, 1:].sum(axis=1, keepdims=True)
        kinds = _adjusted(of_defects, label[bad] - 1)
        own = _own(kinds, label[bad] - 1)
        np.put_along_axis(kinds, label[bad, None] - 1, -1.0, axis=1)
        kind[bad] = (1.0 - own + kinds.max(axis=1)) / 2.0
    return {
        key: _Doubt(*map(float, two)) for key, *two in zip(of_images, defect, kind, strict=True)
    }


def _adjusted(p: Floats, label: Integers) -> Floats:
    """(N, C) probabilities, each class's less its mean over the rows with that label."""
    present = np.unique(label)
    known = np.array([p[label == c, c].mean() for c in present])
    mean = np.full(p.shape[1], known.mean())
    mean[present] = known
    shifted = p - mean + mean.max()
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _own(p: Floats, label: Integers) -> Floats:
    return np.asarray(np.take_along_axis(p, label[:, None], axis=1)[:, 0])


def _suspect(
    data: FolderDataset,
    fold: FoldResult,
    row: int,
    folder: Path,
    labels: dict[str, set[str]],
    doubts: dict[tuple[str, str], _Doubt],
) -> Suspect:
    file = data.files[int(fold.image[row])]
    intersection, union = fold.overlap[row, 1]
    iou = float(intersection / union) if union else float("nan")
    doubt, kind = doubts[file.group, file.label]
    reason = "looks defective" if file.label == GOOD else "looks good"
    if doubt < _SURE:
        reason = ""
        likely = data.classes[1 + int(fold.probabilities[row, 1:].argmax())]
        if kind > _SURE and likely != file.label:
            doubt, reason = max(doubt, (1.0 - doubt) * kind), f"looks like {likely}"
        elif iou < _BAD_IOU:
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
