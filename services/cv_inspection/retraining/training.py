"""Train a candidate on labelled images: fit, choose the threshold by cost, register.

A line keeps its rejects, so training images have as many defects as good parts; the threshold is
chosen on images with the line's own share of defects, and the probabilities are corrected for the
difference. A lot is never split between the two.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time

import numpy as np
import torch
import yaml

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.vision import ImageCandidate
from services.cv_inspection.features.labelled_images import (
    ImageSplit,
    LabelledImages,
    SplitSource,
    mask_iou,
)
from services.cv_inspection.monitoring.drift import reference
from services.cv_inspection.problem import CLASSES, CONF, ESCAPE_COST_MINOR, CostModel
from services.cv_inspection.retraining.folders import read_folder
from services.cv_inspection.serving.model import DESIGN
from services.platform.evaluation.metrics import metrics, plots
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import (
    ModelRegistry,
    RegisteredModel,
    TrainingRun,
    store_model,
    store_reference,
)
from services.platform.progress import ProgressBar
from services.platform.runtime.worker import training_threads
from services.platform.settings import Settings
from services.platform.types import Booleans

_VALIDATION_SHARE = 0.25


def hyperparameters(name: str) -> dict[str, object]:
    """A candidate's `conf/<name>.yaml`."""
    return dict(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def new_candidate(
    name: str, classes: tuple[str, ...] = CLASSES, overrides: Mapping[str, object] | None = None
) -> ImageCandidate:
    """An untrained candidate. KeyError names the known ones.

    Args:
        overrides: Hyperparameters that replace those of `conf/<name>.yaml`.
    """
    kind = CANDIDATES.get(name)
    candidate = kind({**hyperparameters(name), **(overrides or {})}, classes)
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
    CANDIDATES.get(name)
    size = int(str(hyperparameters(name)["size"]))
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


def model_card(
    candidate: ImageCandidate,
    threshold: float,
    fingerprint: str,
    trained_until: float | None = None,
) -> ModelCard:
    """The card of a trained candidate, without a version yet.

    Args:
        fingerprint: Hash of the training data.
        trained_until: Time of the newest image of the line that it was trained on, seconds; None
            if it was trained on none.
    """
    now = datetime.now(UTC)
    return ModelCard(
        design=DESIGN,
        candidate=candidate.name,
        features=candidate.features,
        classes=candidate.classes,
        threshold=threshold,
        kpi={"reinspection_minor": CostModel().review, "escape_minor": ESCAPE_COST_MINOR},
        trained_on=fingerprint,
        trained_at=now,
        trained_until=None if trained_until is None else datetime.fromtimestamp(trained_until, UTC),
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
    with bar("evaluating and exporting") as step:
        probabilities, masks = candidate.predict(valid.vectors)
        score = 1.0 - probabilities[:, 0].astype(np.float64)
        threshold = CostModel().best_threshold(score, valid.positive, valid.amount)
        evaluated = (score, valid.positive, valid.amount, threshold, CostModel())
        measured = {**metrics(*evaluated), "iou": mask_iou(masks, valid), "train_s": train_s}
        step(1, 2)
        card = model_card(candidate, threshold, data.fingerprint, data.trained_until)
        onnx = candidate.export()
        step(2, 2)
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        logged = {**candidate.parameters, **parameters, "images": len(data.train)}
        run = TrainingRun(card, onnx, logged, measured, plots(*evaluated), native)
        card = ModelRegistry(settings).log(run)
    store_model(settings, card, onnx)
    store_reference(settings, card, reference(valid, score).to_bytes())
    return RegisteredModel(card, measured)
