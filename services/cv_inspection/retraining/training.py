"""Train a candidate on labelled images: fit, choose the threshold by cost, register.

A line keeps its rejects, so training images have as many defects as good parts; the threshold is
chosen on images with the line's own share of defects, and the probabilities are corrected for the
difference. A lot is never split between the two.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, time

import numpy as np
import torch

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.vision import ImageCandidate
from services.cv_inspection.features.labelled_images import (
    ImageSplit,
    LabelledImages,
    SplitSource,
    mask_iou,
)
from services.cv_inspection.monitoring.drift import reference
from services.cv_inspection.problem import CLASSES, CONF, DESIGN, ESCAPE_COST_MINOR, CostModel
from services.cv_inspection.retraining.folders import read_folder
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import RegisteredModel
from services.platform.progress import ProgressBar
from services.platform.retraining import training
from services.platform.retraining.training import TrainedCandidate, hyperparameters
from services.platform.runtime.worker import training_threads
from services.platform.settings import Settings
from services.platform.types import Booleans

_VALIDATION_SHARE = 0.25


def image_size(name: str) -> int:
    """Side of a candidate's images, pixels. KeyError names the known candidates."""
    CANDIDATES.get(name)
    return int(hyperparameters(CONF, name)["size"])


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


def folder_split(folder: Path, seed: int, size: int, bar: ProgressBar) -> ImageSplit:
    """Images of a folder, whole groups held out. ValueError: see `read_folder`."""
    with bar(f"reading {folder.name}") as step:
        data = read_folder(folder, size, step)
    held_out = hold_out_units(data.images, _VALIDATION_SHARE, seed)
    fit, valid = data.images.select(~held_out), data.images.select(held_out)
    # A folder may contain images of the line, up to now.
    return ImageSplit(fit, valid, data.classes, trained_until=time())


def hold_out_units(images: LabelledImages, share: float, seed: int) -> Booleans:
    """(N,) whether an image is held out: a share of the units, at least one of each class."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for kind in np.unique(images.label):
        units = np.unique(images.unit[images.label == kind])
        chosen += list(rng.choice(units, max(round(share * len(units)), 1), replace=False))
    return np.isin(images.unit, chosen)


def train(
    settings: Settings, name: str, seed: int, bar: ProgressBar, source: SplitSource
) -> RegisteredModel:
    """Train a candidate and register it; it does not serve yet.

    Args:
        source: Makes the images to train on: simulated ones, or `folder_split`.

    Raises:
        KeyError: no such candidate.
        ValueError: `source` found no usable images.
    """
    size = image_size(name)
    begin = perf_counter()
    data = source(seed, size, bar)
    candidate = new_candidate(name, data.classes)
    with bar(f"training {name}") as step, all_cores():
        candidate.fit(data.train, data.validation, seed, step)
    parameters = {"seed": seed, "weights_from": candidate.origin}
    return register(settings, candidate, data, perf_counter() - begin, parameters, bar)


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use all cores of training; every other process uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(training_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_card(
    candidate: ImageCandidate, threshold: float, fingerprint: str, until: float | None = None
) -> ModelCard:
    """The card of a trained candidate, see `new_card`.

    Args:
        until: Time of the newest image of the line that it was trained on, seconds; None if it was
            trained on none.
    """
    return training.new_card(
        candidate,
        threshold,
        fingerprint,
        until,
        design=DESIGN,
        classes=candidate.classes,
        kpi={"reinspection_minor": CostModel().opex, "escape_minor": ESCAPE_COST_MINOR},
    )


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
        probabilities, masks = candidate.predict(valid.vectors)
        score = 1.0 - probabilities[:, 0].astype(np.float64)
        threshold = CostModel().best_threshold(score, valid.positive, valid.amount)
        trained = TrainedCandidate(
            candidate,
            make_card(candidate, threshold, data.fingerprint, data.trained_until),
            valid,
            score,
            CostModel(),
            {**parameters, "images": len(data.train)},
            {"iou": mask_iou(masks, valid), "train_s": train_s},
            reference(valid, score).to_bytes(),
        )
        return training.register(settings, trained)
