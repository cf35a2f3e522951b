"""Train a candidate on labelled images: fit, choose the threshold by cost, register.

A line keeps its rejects, so training images have as many defects as good parts; the threshold is
chosen on images with the line's own share of defects, and the probabilities are corrected for the
difference. A lot is never split between the two.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import torch

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.image_candidate import ImageCandidate, Prediction
from services.cv_inspection.features.image import ImageSize, Pixels, parse_size
from services.cv_inspection.features.labelled_images import (
    ImageSplit,
    LabelledImages,
    SplitSource,
    mask_iou,
)
from services.cv_inspection.model import (
    IMAGE,
    MASK,
    MAX_NOVELTY,
    NOVELTY,
    PATCH_NOVELTY,
    PROBABILITIES,
)
from services.cv_inspection.monitoring.drift import reference
from services.cv_inspection.problem import (
    CLASSES,
    CONF,
    DESIGN,
    ESCAPE_COST_MINOR,
    MAX_NOVEL_SHARE,
    CostModel,
)
from services.cv_inspection.retraining.folders import FolderDataset, read_folder
from services.cv_inspection.retraining.threshold import choose_threshold
from services.platform.evaluation.sampling import repeated
from services.platform.models.onnx import ModelCard, open_session
from services.platform.models.registry import RegisteredModel
from services.platform.progress import ProgressBar
from services.platform.retraining import training
from services.platform.retraining.training import TrainedCandidate, hyperparameters
from services.platform.runtime.worker import training_threads
from services.platform.settings import Settings
from services.platform.types import Booleans, Floats

log = logging.getLogger(__name__)

_VALIDATION_SHARE = 0.25
# 7.6 ms of a processor an image; 8.7 with batches of 32.
_PREDICT_BATCH = 8


def image_size(name: str) -> tuple[int, int]:
    """(height, width) of a candidate's input. KeyError names the known candidates."""
    CANDIDATES.get(name)
    return parse_size(hyperparameters(CONF, name)["size"])


def learns_from_good_only(name: str) -> bool:
    """Whether a folder of good parts is enough for a candidate."""
    return bool(getattr(CANDIDATES.get(name), "good_only", False))


def new_candidate(
    name: str, classes: tuple[str, ...] = CLASSES, overrides: Mapping[str, object] | None = None
) -> ImageCandidate:
    """An untrained candidate. KeyError names the known ones.

    Args:
        overrides: Hyperparameters that replace those of `conf/<name>.yaml`.
    """
    kind = CANDIDATES.get(name)
    candidate = kind({**hyperparameters(CONF, name), **(overrides or {})}, classes)
    assert isinstance(candidate, ImageCandidate)
    return candidate


def folder_split(
    folder: Path,
    group_by: str,
    good_only: bool,
    seed: int,
    size: ImageSize,
    max_reduction: float,
    bar: ProgressBar,
) -> ImageSplit:
    """Images of a folder, whole groups held out.

    Args:
        group_by: See `find_files`.
        good_only: The candidate learns from good parts alone.

    Raises:
        ValueError: see `read_folder`; or there are too few groups to hold one out.
    """
    with bar(f"reading {folder.name}") as step:
        data = read_folder(folder, size, step, max_reduction, group_by, good_only)
    warn_of_leaks(folder, data)
    held_out = hold_out_units(data.images, _VALIDATION_SHARE, seed)
    fit, valid = data.images.select(~held_out), data.images.select(held_out)
    for number in np.unique(data.images.label):
        if not (fit.label == number).any():
            raise ValueError(
                f"{folder}: all images of {data.classes[number]} are of the groups that are held "
                "out for the threshold; it needs two groups (parts) or more"
            )
    # A folder may contain images of the line, up to now.
    return ImageSplit(fit, valid, data.classes, trained_until=time())


def warn_of_leaks(folder: Path, data: FolderDataset) -> None:
    """Say loudly what would make figures of a folder too good."""
    if not data.grouped:
        log.warning(
            "%s: no groups.csv and no --group-by: each image counts as a part of its own. If "
            "several show one part, it is in training and in test, and all figures are too good "
            "(magnetic tiles: mIoU .69 in place of .54)",
            folder,
        )
    for copies in data.duplicates:
        names = ", ".join(str(path) for path in copies)
        log.warning("the same image in several groups, joined into one: %s", names)


def hold_out_units(images: LabelledImages, share: float, seed: int) -> Booleans:
    """(N,) whether an image is held out: a share of the units of each class, at least one.

    A unit may show several classes, as a lot does. The class of the fewest units comes first, and
    units that are held out already count for the next one.
    """
    rng = np.random.default_rng(seed)
    by_class = [np.unique(images.unit[images.label == kind]) for kind in np.unique(images.label)]
    chosen = np.array([], dtype=np.int64)
    for units in sorted(by_class, key=len):
        left = np.setdiff1d(units, chosen)
        lacking = max(round(share * len(units)), 1) - (len(units) - len(left))
        chosen = np.append(chosen, rng.choice(left, max(lacking, 0), replace=False))
    return np.isin(images.unit, chosen)


def train(
    settings: Settings,
    name: str,
    seed: int,
    bar: ProgressBar,
    source: SplitSource,
    overrides: Mapping[str, object] | None = None,
) -> RegisteredModel:
    """Train a candidate and register it; it does not serve yet.

    Args:
        source: Makes the images to train on: simulated ones, or `folder_split`.
        overrides: Hyperparameters in place of the conf's.

    Raises:
        KeyError: no such candidate.
        ValueError: `source` found no usable images.
    """
    begin = perf_counter()
    CANDIDATES.get(name)
    conf = {**hyperparameters(CONF, name), **(overrides or {})}
    data = source(seed, parse_size(conf["size"]), float(conf["max_reduction"]), bar)
    candidate = new_candidate(name, data.classes, overrides)
    with bar(f"training {name}") as step, all_cores():
        candidate.fit(data.train, data.validation, seed, step)
    parameters = {"seed": seed, "weights_from": candidate.origin}
    return register(settings, candidate, data, perf_counter() - begin, parameters, bar)


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use all cores for training; every other process uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(training_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_card(
    candidate: ImageCandidate,
    threshold: float,
    fingerprint: str,
    until: float | None = None,
    limits: Mapping[str, float] | None = None,
) -> ModelCard:
    """The card of a trained candidate, see `new_card`.

    Args:
        until: Time of the newest image of the line that it was trained on, seconds; None if it was
            trained on none.
        limits: Limits beside the candidate's own.
    """
    return training.new_card(
        candidate,
        threshold,
        fingerprint,
        until,
        design=DESIGN,
        classes=candidate.classes,
        # A limit that is infinite is none, and JSON has no word for it.
        limits={n: v for n, v in {**candidate.limits, **(limits or {})}.items() if v < math.inf},
        kpi={"reinspection_minor": CostModel().opex, "escape_minor": ESCAPE_COST_MINOR},
    )


def novelty_limit(novelty: Floats, weight: Floats | None = None) -> float:
    """The novelty that a share `MAX_NOVEL_SHARE` of good parts (N,) reaches.

    Args:
        weight: (N,) how often each counts; None: once.

    >>> novelty_limit(np.arange(1001.0))
    995.0
    """
    if weight is not None:
        novelty = novelty[repeated(weight)]
    return float(np.quantile(novelty, 1.0 - MAX_NOVEL_SHARE)) if len(novelty) else math.inf


def predict_exported(onnx: bytes, pixels: Pixels) -> Prediction:
    """A candidate's answers for (N, H, W, 3) pixels, by the file that would serve.

    ONNX Runtime takes a third of torch's time for them.
    """
    session = open_session(onnx, training_threads())
    names = [output.name for output in session.get_outputs()]
    parts: list[dict[str, Any]] = []
    for begin in range(0, len(pixels), _PREDICT_BATCH):
        batch = pixels[begin : begin + _PREDICT_BATCH]
        parts.append(dict(zip(names, session.run(names, {IMAGE: batch}), strict=True)))
        parts[-1].setdefault(NOVELTY, np.zeros(len(batch), dtype=np.float32))
        parts[-1].setdefault(PATCH_NOVELTY, np.zeros((len(batch), 1, 0, 0), dtype=np.float32))
    probabilities, masks, novelty, patches = (
        np.concatenate([part[name] for part in parts])
        for name in (PROBABILITIES, MASK, NOVELTY, PATCH_NOVELTY)
    )
    return Prediction(probabilities, masks[:, 0], novelty, patches[:, 0])


def register(
    settings: Settings,
    candidate: ImageCandidate,
    data: ImageSplit,
    train_s: float,
    parameters: Mapping[str, object],
    bar: ProgressBar,
) -> RegisteredModel:
    """Choose a trained candidate's threshold, evaluate it on the validation images, register it.

    Args:
        train_s: Seconds that training took.
        parameters: Logged with the candidate's hyperparameters.
    """
    valid = data.validation
    with bar("evaluating and exporting"):
        exported = candidate.export()
        found = predict_exported(exported, valid.vectors)
        iou = mask_iou(found.masks, valid)
        novel, of = valid.by_image(found.novelty.astype(np.float64))
        score, valid = valid.by_image(1.0 - found.probabilities[:, 0].astype(np.float64))
        threshold = choose_threshold(score, valid.positive, valid.amount, valid.weight)
        good = of.select(~of.positive)
        limits = {MAX_NOVELTY: novelty_limit(novel[~of.positive], good.weight)}
        trained = TrainedCandidate(
            candidate,
            make_card(candidate, threshold, data.fingerprint, data.trained_until, limits),
            valid,
            score,
            CostModel(),
            {**parameters, "images": len(data.train)},
            {"iou": iou, "train_s": train_s},
            reference(valid, score, novel).to_bytes(),
            exported=exported,
        )
        return training.register(settings, trained)
