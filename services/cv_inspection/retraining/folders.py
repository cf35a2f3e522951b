"""Read labelled images and their masks from folders.

Two layouts are supported: a folder for each class (`FOLDER/<class>/*.jpg|png`, a mask as
`<name>_mask.png` or `masks/<name>.png`), and the magnetic-tile data set
(`MT_<class>/Imgs/<name>.jpg`, its mask `<name>.png` beside it, groups in `groups.csv`).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from services.cv_inspection.features.image import (
    QUALITY_MEASURES,
    quality_vector,
    resize,
    resize_mask,
)
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD
from services.platform.progress import ProgressCallback

_SUFFIXES = (".jpg", ".jpeg", ".png")
_GOOD_NAMES = {"good", "free", "ok", "mt_free", "normal"}


@dataclass(frozen=True)
class LabelledFile:
    """A labelled file.

    Attributes:
        path: Path of the image.
        label: Name of the class.
        mask: Path of the mask, None without one.
        group: Images of one group are never split between training and test.
    """

    path: Path
    label: str
    mask: Path | None
    group: str


@dataclass(frozen=True)
class FolderDataset:
    """Images and the names of their classes, `good` first."""

    images: LabelledImages
    classes: tuple[str, ...]


def read_folder(folder: Path, size: int, step: ProgressCallback) -> FolderDataset:
    """Read a folder of either layout.

    Raises:
        ValueError: it has no classes, only one, or no good parts; or a file is not a valid image.
    """
    files = list(
        _magnetic_tile(folder) if (folder / "groups.csv").exists() else _class_folders(folder)
    )
    names = sorted({f.label for f in files} - {GOOD})
    if not names or not any(f.label == GOOD for f in files):
        raise ValueError(
            f"{folder} needs a folder of good parts ({', '.join(sorted(_GOOD_NAMES))}) and at "
            f"least one of defects; it has {', '.join(names) or 'none'}"
        )
    classes = (GOOD, *names)
    pixels = np.zeros((len(files), size, size, 3), dtype=np.uint8)
    mask = np.zeros((len(files), size, size), dtype=bool)
    quality = np.zeros((len(files), len(QUALITY_MEASURES)))
    for i, file in enumerate(files):
        try:
            image = decode(file.path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
        pixels[i], quality[i] = resize(image, size), quality_vector(image)
        if file.mask is not None:
            mask[i] = resize_mask(Image.open(file.mask), size)
        step(i + 1, len(files))
    label = np.array([classes.index(f.label) for f in files], dtype=np.int64)
    unit = pd.factorize(np.array([f.group for f in files], dtype=object))[0].astype(np.int64)
    return FolderDataset(
        LabelledImages.from_arrays(pixels, label, mask, unit, quality, ESCAPE_COST_MINOR), classes
    )


def _class_folders(folder: Path) -> Iterator[LabelledFile]:
    for kind in sorted(p for p in folder.iterdir() if p.is_dir()):
        label = GOOD if kind.name.lower() in _GOOD_NAMES else kind.name
        for path in sorted(kind.iterdir()):
            if path.suffix.lower() in _SUFFIXES and not path.stem.endswith("_mask"):
                beside = (kind / f"{path.stem}_mask.png", kind / "masks" / f"{path.stem}.png")
                mask = next((m for m in beside if m.exists()), None)
                yield LabelledFile(path, label, mask, f"{kind.name}/{path.name}")


def _magnetic_tile(folder: Path) -> Iterator[LabelledFile]:
    """Images of one tile share a group; another split would put a tile in training and test."""
    with (folder / "groups.csv").open() as file:
        for row in csv.DictReader(file):
            path = folder / row["path"]
            label = row["class"].removeprefix("MT_").lower()
            label = GOOD if label == "free" else label
            mask = path.with_suffix(".png")
            yield LabelledFile(
                path, label, mask if label != GOOD and mask.exists() else None, row["group"]
            )
