"""Train a candidate on labelled pictures: fit, threshold by cost, register.

A line keeps its rejects, so history has as many defects as good parts; the threshold is chosen on
pictures that come as they come on the line, and the probabilities are corrected for the difference.
Lots are never split between the two.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time

import numpy as np
import torch
import yaml
from PIL import Image

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.vision import ImageCandidate
from services.cv_inspection.features.image import QUALITY, scaled, scaled_mask
from services.cv_inspection.features.image import figures as picture_figures
from services.cv_inspection.features.labelled_images import Pictures, index_of
from services.cv_inspection.ingestion.events import decode
from services.cv_inspection.monitoring.drift import reference
from services.cv_inspection.problem import CLASSES, CONF, ESCAPE_COST_MINOR, Kpi
from services.cv_inspection.retraining import folders as datasets
from services.cv_inspection.simulator.camera import DEFECT_SHARE, Camera
from services.cv_inspection.simulator.drift import Drift
from services.platform.evaluation.metrics import figures, metrics
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import (
    Registry,
    Trained,
    Training,
    store_model,
    store_reference,
)
from services.platform.progress import Bar, Step
from services.platform.runtime.worker import training_threads
from services.platform.settings import Settings

TRAIN_PICTURES, VALIDATION_PICTURES, HELD_OUT_PICTURES = 900, 900, 2_000
_VALIDATION_FROM, _HELD_OUT_FROM = 500_000, 600_000
_VALIDATION_SHARE = 0.25


@dataclass(frozen=True)
class Split:
    """Training and validation pictures, and what their classes are called."""

    train: Pictures
    validation: Pictures
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Of all of them, for the model's card."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(part.vectors.tobytes() + part.label.tobytes())
        return digest.hexdigest()[:16]


def hyperparameters(name: str) -> dict[str, object]:
    """A candidate's `conf/<name>.yaml`."""
    return dict(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def new_candidate(
    name: str, classes: tuple[str, ...] = CLASSES, changes: Mapping[str, object] | None = None
) -> ImageCandidate:
    """An untrained candidate. KeyError lists those there are."""
    kind = CANDIDATES.get(name)
    made = kind({**hyperparameters(name), **(changes or {})}, classes)
    assert isinstance(made, ImageCandidate)
    return made


def simulated(
    seed: int,
    first: int,
    count: int,
    defects: float,
    size: int,
    step: Step,
    drift: Drift | None = None,
) -> Pictures:
    """Pictures of the simulated camera, with their truth."""
    camera = Camera(seed, defects, drift)
    pixels = np.zeros((count, size, size, 3), dtype=np.uint8)
    mask = np.zeros((count, size, size), dtype=bool)
    label = np.zeros(count, dtype=np.int64)
    quality = np.zeros((count, len(QUALITY)))
    lots: dict[str, int] = {}
    unit = np.zeros(count, dtype=np.int64)
    for i in range(count):
        shot = camera.shot(first + i)
        # As it would come from the store: what a file loses is part of the picture.
        image = decode(shot.jpeg())
        pixels[i], quality[i] = scaled(image, size), picture_figures(image)
        mask[i] = scaled_mask(Image.fromarray(shot.mask), size)
        label[i] = index_of(shot.label, CLASSES)
        unit[i] = lots.setdefault(f"{shot.line}/{shot.station}/{shot.lot}", len(lots))
        step(i + 1, count)
    return Pictures.of(pixels, label, mask, unit, quality, ESCAPE_COST_MINOR)


def simulated_split(seed: int, size: int, bar: Bar) -> Split:
    """What the line kept, half of it rejects, and pictures as they come."""
    with bar("taking pictures") as step:
        train = simulated(seed, 0, TRAIN_PICTURES, 0.5, size, step)
    with bar("taking pictures as they come") as step:
        validation = simulated(
            seed, _VALIDATION_FROM, VALIDATION_PICTURES, DEFECT_SHARE, size, step
        )
    return Split(train, validation, CLASSES)


def simulated_held_out(seed: int, size: int, step: Step) -> Pictures:
    """Pictures as they come, which nothing was trained or chosen on."""
    return simulated(seed, _HELD_OUT_FROM, HELD_OUT_PICTURES, DEFECT_SHARE, size, step)


def folder_split(folder: Path, size: int, seed: int, bar: Bar) -> Split:
    """Pictures of a folder, whole groups held out. ValueError: see `datasets.read`."""
    with bar(f"reading {folder.name}") as step:
        found = datasets.read(folder, size, step)
    late = held_out(found.pictures, _VALIDATION_SHARE, seed)
    return Split(found.pictures.where(~late), found.pictures.where(late), found.classes)


def held_out(pictures: Pictures, share: float, seed: int) -> np.ndarray:
    """(N,) bool: a share of the units, drawn class by class so that none is missing."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for kind in np.unique(pictures.label):
        units = np.unique(pictures.unit[pictures.label == kind])
        chosen += list(rng.choice(units, max(round(share * len(units)), 1), replace=False))
    return np.isin(pictures.unit, chosen)


def train(
    settings: Settings, name: str, seed: int, bar: Bar, folder: Path | None = None
) -> Trained:
    """Train a candidate and register it. It serves nobody yet.

    Args:
        folder: Real pictures to train on; the simulated camera's without.

    Raises:
        KeyError: no such candidate. ValueError: see `datasets.read`.
    """
    CANDIDATES.get(name)
    size = int(str(hyperparameters(name)["size"]))
    begin = perf_counter()
    if folder is None:
        data = simulated_split(seed, size, bar)
    else:
        data = folder_split(folder, size, seed, bar)
    candidate = new_candidate(name, data.classes)
    with bar(f"training {name}") as step, all_cores():
        candidate.fit(data.train, data.validation, seed, step)
    shown = {"seed": seed, "weights_from": candidate.origin}
    # A folder's pictures may be the line's own; the simulator's history is none of them.
    until = None if folder is None else time()
    return register(settings, candidate, data, perf_counter() - begin, shown, bar, until)


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use all cores that may be: elsewhere one thread a process is the rule."""
    before = torch.get_num_threads()
    torch.set_num_threads(training_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def card_of(
    candidate: ImageCandidate, threshold: float, fingerprint: str, until: float | None = None
) -> ModelCard:
    """The card of a trained candidate, without a version yet.

    Args:
        until: Time of the newest of the line's pictures that it was trained on, seconds; None if
            it has seen none of them.
    """
    now = datetime.now(UTC)
    return ModelCard(
        design="cv",
        candidate=candidate.name,
        features=candidate.features,
        classes=candidate.classes,
        threshold=threshold,
        kpi={"reinspection_minor": Kpi().review, "escape_minor": ESCAPE_COST_MINOR},
        trained_on=fingerprint,
        trained_at=now,
        trained_until=None if until is None else datetime.fromtimestamp(until, UTC),
    )


def mask_iou(found: np.ndarray, pictures: Pictures) -> float:
    """Mean over the classes of defects of the pooled IoU of mask logits (N, S, S), 0..1.

    Background is not among the classes: nearly all of it is easy, and it would flatter.
    """
    ious = []
    for kind in np.unique(pictures.label[pictures.outlined & pictures.positive]):
        of = (pictures.label == kind) & pictures.outlined
        drawn, true = found[of] > 0, pictures.mask[of]
        ious.append((drawn & true).sum() / max((drawn | true).sum(), 1))
    return float(np.mean(ious)) if ious else float("nan")


def register(
    settings: Settings,
    candidate: ImageCandidate,
    data: Split,
    train_s: float,
    parameters: Mapping[str, object],
    bar: Bar,
    until: float | None = None,
) -> Trained:
    """Choose a trained candidate's threshold, judge it on the validation pictures, register it."""
    valid = data.validation
    with bar("judging and exporting") as step:
        kinds, masks = candidate.predict(valid.vectors)
        score = 1.0 - kinds[:, 0].astype(np.float64)
        threshold = Kpi().best_threshold(score, valid.positive, valid.amount)
        judged = (score, valid.positive, valid.amount, threshold, Kpi())
        found = {**metrics(*judged), "iou": mask_iou(masks, valid), "train_s": train_s}
        step(1, 2)
        card = card_of(candidate, threshold, data.fingerprint, until)
        onnx = candidate.export()
        step(2, 2)
    with TemporaryDirectory() as folder:
        native = Path(folder) / "native"
        native.mkdir()
        candidate.save(native)
        shown = {**candidate.parameters, **parameters, "pictures": len(data.train)}
        run = Training(card, onnx, shown, found, figures(*judged), native)
        card = Registry(settings).log(run)
    store_model(settings, card, onnx)
    store_reference(settings, card, reference(valid, score).to_bytes())
    return Trained(card, found)
