"""Read labelled images and their masks from a folder: its layouts are in `layouts`.

A file that can't be used is named, because a data set that silently lacks images or masks trains a
worse model.
"""

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from services.cv_inspection.features.image import ImageSize
from services.cv_inspection.features.labelled_images import ImageArrays, LabelledImages
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.ingestion.labels import GOOD_SPELLINGS
from services.cv_inspection.problem import GOOD
from services.cv_inspection.retraining.layouts import LabelledFile, find_files
from services.cv_inspection.retraining.masks import read_mask
from services.platform.progress import ProgressCallback

# What a model of a folder without defects calls them.
ANY_DEFECT = "defect"


@dataclass(frozen=True)
class FolderDataset:
    """Images and the names of their classes, `good` first.

    Attributes:
        files: The file of each image, by its number in `images.source`.
        grouped: Whether the groups are known; otherwise each image is a group of its own.
        duplicates: Files of equal bytes that were in several groups, and are one group now.
    """

    images: LabelledImages
    classes: tuple[str, ...]
    files: tuple[LabelledFile, ...] = ()
    grouped: bool = True
    duplicates: tuple[tuple[Path, ...], ...] = field(default=())


def read_folder(
    folder: Path,
    size: ImageSize,
    step: ProgressCallback,
    max_reduction: float = math.inf,
    group_by: str = "",
    good_only: bool = False,
) -> FolderDataset:
    """Read a folder of any layout.

    Args:
        size: The model's input.
        max_reduction: See `tile_boxes`.
        group_by: See `find_files`.
        good_only: A folder without defects will do.

    Raises:
        ValueError: it has no classes, only one, or no good parts; or a file is not a valid image or
            mask; or two classes have the same image.
    """
    files, grouped = find_files(folder, group_by)
    classes = _classes(folder, files, good_only)
    files, duplicates = _join_duplicates(files)
    units = pd.factorize(np.array([f.group for f in files], dtype=object))[0]
    arrays = ImageArrays(size, max_reduction)
    for i, file in enumerate(files):
        image, mask = read_labelled(file)
        try:
            arrays.add(image, mask, classes.index(file.label), int(units[i]))
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
        step(i + 1, len(files))
    return FolderDataset(arrays.labelled(), classes, tuple(files), grouped, duplicates)


def _classes(folder: Path, files: list[LabelledFile], good_only: bool) -> tuple[str, ...]:
    names = sorted({f.label for f in files} - {GOOD})
    good = any(f.label == GOOD for f in files)
    if good and good_only and not names:
        return GOOD, ANY_DEFECT
    if not names or not good:
        raise ValueError(
            f"{folder} needs a folder of good parts ({', '.join(sorted(GOOD_SPELLINGS))}) and at "
            f"least one of defects; it has {', '.join(names) or ('good' if good else 'none')}"
            + ("; with good parts alone, train --candidate normality" if good else "")
        )
    return (GOOD, *names)


def read_labelled(file: LabelledFile) -> tuple[Image.Image, Image.Image | None]:
    """A file's image and mask. ValueError names the file that is not valid."""
    data = _bytes(file.path)
    try:
        image = decode(data)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    if file.mask is None:
        return image, None
    data = _bytes(file.mask)
    try:
        mask = read_mask(data, image.size)
    except ValueError as error:
        raise ValueError(f"{file.mask}: {error} (the image is {file.path})") from None
    if file.label == GOOD and mask.getbbox() is not None:
        raise ValueError(
            f"{file.mask}: it outlines a defect of a good part; move {file.path} into the defect's "
            "folder, or remove the mask"
        )
    # Four of the magnetic tiles' masks are empty: the defect has no outline.
    return image, None if mask.getbbox() is None else mask


def _bytes(path: Path) -> bytes:
    """ValueError if a file that a folder or its `groups.csv` names can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; correct the link, or the row of groups.csv"
            if isinstance(error, FileNotFoundError)
            else f"{path}: {error.strerror}"
        ) from None


def _join_duplicates(
    files: list[LabelledFile],
) -> tuple[list[LabelledFile], tuple[tuple[Path, ...], ...]]:
    """The files with copies of one image in one group, and the copies that were in several.

    ValueError if one image is in two classes.
    """
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for i, file in enumerate(files):
        by_content[hashlib.sha256(_bytes(file.path)).digest()].append(i)
    parent: dict[str, str] = {}
    found = []
    for copies in by_content.values():
        first = files[copies[0]]
        for other in (files[i] for i in copies[1:]):
            if other.label != first.label:
                raise ValueError(
                    f"{first.path} ({first.label}) and {other.path} ({other.label}) are one image "
                    "in two classes: remove one of them"
                )
        roots = {_root(parent, files[i].group) for i in copies}
        if len(roots) > 1:
            found.append(tuple(files[i].path for i in copies))
            parent.update(dict.fromkeys(roots - {min(roots)}, min(roots)))
    joined = [LabelledFile(f.path, f.label, f.mask, _root(parent, f.group)) for f in files]
    return joined, tuple(found)


def _root(parent: dict[str, str], group: str) -> str:
    while group in parent:
        group = parent[group]
    return group
