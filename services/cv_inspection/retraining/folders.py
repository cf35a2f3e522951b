"""Read labelled images and their masks from folders.

Two layouts are supported: a folder for each class (`FOLDER/<class>/*.jpg|png`, a mask as
`<name>_mask.png` or `masks/<name>.png`), and the magnetic-tile data set
(`MT_<class>/Imgs/<name>.jpg`, its mask `<name>.png` beside it, groups in `groups.csv`).

A file that can't be used is named, because a data set that silently lacks images or masks trains a
worse model.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from services.cv_inspection.features.labelled_images import ImageArrays, LabelledImages
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.ingestion.labels import GOOD_SPELLINGS, is_good
from services.cv_inspection.problem import GOOD
from services.cv_inspection.retraining.masks import read_mask
from services.platform.progress import ProgressCallback

_SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")
_MASKS, _MASK_ENDING = "masks", "_mask"


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
        ValueError: it has no classes, only one, or no good parts; or a file is not a valid image or
            mask.
    """
    files = list(
        _magnetic_tile(folder) if (folder / "groups.csv").exists() else _class_folders(folder)
    )
    names = sorted({f.label for f in files} - {GOOD})
    if not names or not any(f.label == GOOD for f in files):
        raise ValueError(
            f"{folder} needs a folder of good parts ({', '.join(sorted(GOOD_SPELLINGS))}) and at "
            f"least one of defects; it has {', '.join(names) or 'none'}"
        )
    classes = (GOOD, *names)
    arrays = ImageArrays(len(files), size)
    for i, file in enumerate(files):
        arrays.set(i, *_read(file))
        step(i + 1, len(files))
    label = np.array([classes.index(f.label) for f in files], dtype=np.int64)
    unit = pd.factorize(np.array([f.group for f in files], dtype=object))[0].astype(np.int64)
    return FolderDataset(arrays.labelled(label, unit), classes)


def _read(file: LabelledFile) -> tuple[Image.Image, Image.Image | None]:
    """A file's image and mask. ValueError names the file that is not valid."""
    try:
        image = decode(file.path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    if file.mask is None:
        return image, None
    try:
        mask = read_mask(file.mask.read_bytes(), image.size)
    except ValueError as error:
        raise ValueError(f"{file.mask}: {error}") from None
    if file.label == GOOD and mask.getbbox() is not None:
        raise ValueError(f"{file.mask}: it outlines a defect of a good part")
    return image, mask


def _class_folders(folder: Path) -> Iterator[LabelledFile]:
    for kind in sorted(path for path in _visible(folder) if path.is_dir()):
        label = GOOD if is_good(kind.name) else kind.name
        masks = _masks(kind)
        images = [path for path in _images(kind) if not _is_mask(path)]
        for mask in masks.keys() - {path.stem for path in images}:
            raise ValueError(f"{masks[mask]}: a mask without its image in {kind}")
        for path in images:
            yield LabelledFile(path, label, masks.get(path.stem), f"{kind.name}/{path.name}")


def _masks(kind: Path) -> dict[str, Path]:
    """The masks of a class folder, by the stem of their image."""
    masks: dict[str, Path] = {}
    inside = _images(kind / _MASKS) if (kind / _MASKS).is_dir() else []
    for path in [*filter(_is_mask, _images(kind)), *inside]:
        stem = path.stem[: -len(_MASK_ENDING)] if _is_mask(path) else path.stem
        if stem in masks:
            raise ValueError(f"{path} and {masks[stem]} are masks of one image")
        masks[stem] = path
    return masks


def _is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(_MASK_ENDING)


def _images(folder: Path) -> list[Path]:
    """Its JPEG and PNG files, sorted. ValueError if it has images that would not be read."""
    for path in _visible(folder):
        if path.suffix.lower() in _OTHER_IMAGES or (path.is_dir() and path.name != _MASKS):
            raise ValueError(f"{path}: a class folder has JPEG and PNG files, and {_MASKS}/")
    return sorted(path for path in _visible(folder) if path.suffix.lower() in _SUFFIXES)


def _visible(folder: Path) -> Iterator[Path]:
    """Its files and folders, but not those that programs hide."""
    return (path for path in folder.iterdir() if not path.name.startswith((".", "__")))


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
