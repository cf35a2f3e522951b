"""A small inspection model, trained on a few simulated images; made once a session."""

import csv
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from services.cv_inspection.candidates.image_candidate import ImageCandidate
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining import training
from services.cv_inspection.simulator.labelled_images import simulated_images
from services.platform.models.onnx import ModelCard

SIZE = 64
SMALL = {"size": SIZE, "epochs": 2, "more_epochs": 1, "batch": 16, "weights": "auto"}


def quiet(*_: int) -> None:
    """Ignore progress."""


@cache
def simulated(count: int = 96, first: int = 0, defects: float = 0.5) -> LabelledImages:
    return simulated_images(3, first, count, defects, SIZE, quiet)


def trained(name: str, **changes: object) -> ImageCandidate:
    made = training.new_candidate(name, CLASSES, {**SMALL, **changes})
    made.fit(simulated(), simulated(96, 500_000, 0.1), 0, quiet)
    return made


def cv_card(**changes: object) -> ModelCard:
    made = ModelCard(
        design="cv", candidate="efficientnet", version=1, features=("image",), classes=CLASSES,
        threshold=0.1, kpi={"escape_minor": 6_000}, trained_on="test",
        trained_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return made.model_copy(update=changes)


def make_tiles(folder: Path, count: int) -> None:
    """Synthetic magnetic tiles: `count` good and `count` with a blowhole, each under two lights."""
    rng = np.random.default_rng(0)
    rows = [("path", "class", "exp", "num", "group")]
    for kind in ("MT_Free", "MT_Blowhole"):
        (folder / kind / "Imgs").mkdir(parents=True)
        for tile in range(count):
            for light in range(2):
                path = f"{kind}/Imgs/exp{light}_num_{tile}.jpg"
                pixels, mask = _tile(rng, 90 + 40 * light, kind == "MT_Blowhole")
                Image.fromarray(pixels).save(folder / path)
                Image.fromarray(mask).save((folder / path).with_suffix(".png"))
                rows.append((path, kind, str(light), str(tile), f"{kind}{tile}"))
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _tile(rng: np.random.Generator, light: float, hole: bool) -> tuple[np.ndarray, np.ndarray]:
    pixels = rng.normal(light, 8, (96, 96)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((96, 96), np.uint8)
    if hole:
        top, left = rng.integers(20, 60, 2)
        mask[top : top + 12, left : left + 12] = 255
        pixels[mask > 0] = 10
    return pixels, mask
