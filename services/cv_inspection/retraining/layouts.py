"""Find labelled images, their masks and their groups in a folder, by its layout.

Three layouts are known:

- a folder for each class: `FOLDER/<class>/*.jpg|png`, a mask as `<name>_mask.png` beside the image
  or as `masks/<name>.png`;
- MVTec AD (Bergmann et al., 2019): `train/good/*.png`, `test/<class>/*.png`, and
  `ground_truth/<class>/<name>_mask.png`;
- the magnetic tiles: `MT_<class>/Imgs/<name>.jpg`, the mask `<name>.png` beside it, and
  `groups.csv` with the columns path, class and group.

Images of one part must share a group, or a part is in training and in test. Groups come from a
`groups.csv` (path, group), or from a pattern on the path.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from services.cv_inspection.ingestion.labels import is_good
from services.cv_inspection.problem import GOOD

SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp")
_MASKS, _MASK_ENDING, _GROUPS = "masks", "_mask", "groups.csv"


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


def find_files(folder: Path, group_by: str = "") -> tuple[list[LabelledFile], bool]:
    """The labelled files of a folder, and whether their groups are known.

    Args:
        group_by: A regular expression that is searched in each path below the folder; its first
            group, or else the whole match, is the image's group. It replaces `groups.csv`.

    Raises:
        ValueError: the layout is broken, or a file has no group; the message names the file.
    """
    rows = _group_rows(folder)
    if rows and "class" in rows[0]:
        files = _magnetic_tile(folder, rows)
    elif (folder / "train").is_dir() and (folder / "test").is_dir():
        files = list(_mvtec(folder))
    else:
        files = list(_class_folders(folder))
    if group_by:
        return [replace(f, group=_matched(f.path, folder, group_by)) for f in files], True
    if not rows:
        return files, False
    groups = {(folder / row["path"]).resolve(): row["group"] for row in rows}
    for file in files:
        if file.path.resolve() not in groups:
            raise ValueError(f"{file.path}: {folder / _GROUPS} has no row for it; add its group")
    return [replace(file, group=groups[file.path.resolve()]) for file in files], True


def _group_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of `groups.csv`; empty without one. ValueError if it lacks a column."""
    path = folder / _GROUPS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"path", "group"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; it needs path,group")
        return list(reader)


def _matched(path: Path, folder: Path, group_by: str) -> str:
    relative = path.relative_to(folder).as_posix()
    try:
        match = re.search(group_by, relative)
    except re.error as error:
        raise ValueError(f"--group-by {group_by!r} is not a regular expression: {error}") from None
    if match is None:
        raise ValueError(f"{path}: --group-by {group_by!r} is not found in {relative!r}")
    return str(match.group(1) if match.re.groups else match.group())


def _magnetic_tile(folder: Path, rows: list[dict[str, str]]) -> list[LabelledFile]:
    files = []
    for row in rows:
        path = folder / row["path"]
        label = row["class"].removeprefix("MT_").lower()
        label = GOOD if label == "free" else label
        mask = path.with_suffix(".png")
        outlined = mask if label != GOOD and mask.exists() and mask != path else None
        files.append(LabelledFile(path, label, outlined, row["group"]))
    return files


def _mvtec(folder: Path) -> Iterator[LabelledFile]:
    truth = folder / "ground_truth"
    for part in ("train", "test"):
        for kind in _class_dirs(folder / part):
            masks = _masks_in(truth / kind.name)
            for path in _images(kind):
                mask = masks.get(path.stem)
                yield LabelledFile(path, _label(kind), mask, f"{part}/{kind.name}/{path.name}")
    for kind in _class_dirs(truth) if truth.is_dir() else ():
        images = {path.stem for path in _images(folder / "test" / kind.name)}
        for stem, mask in _masks_in(kind).items():
            if stem not in images:
                raise ValueError(
                    f"{mask}: a mask without its image in {folder / 'test'}; add the image, or "
                    "remove the mask"
                )


def _masks_in(folder: Path) -> dict[str, Path]:
    """The masks of a folder of masks, by the stem of their image."""
    files = _images(folder) if folder.is_dir() else []
    return {_image_stem(path): path for path in files}


def _class_folders(folder: Path) -> Iterator[LabelledFile]:
    for kind in _class_dirs(folder):
        masks = _masks(kind)
        images = [path for path in _images(kind) if not _is_mask(path)]
        for mask in masks.keys() - {path.stem for path in images}:
            raise ValueError(
                f"{masks[mask]}: a mask without its image in {kind}; add the image, or remove the "
                "mask"
            )
        for path in images:
            group = f"{kind.name}/{path.name}"
            yield LabelledFile(path, _label(kind), masks.get(path.stem), group)


def _label(kind: Path) -> str:
    return GOOD if is_good(kind.name) else kind.name


def _class_dirs(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder) if path.is_dir())


def _masks(kind: Path) -> dict[str, Path]:
    """The masks of a class folder, by the stem of their image."""
    masks: dict[str, Path] = {}
    inside = _images(kind / _MASKS) if (kind / _MASKS).is_dir() else []
    for path in [*filter(_is_mask, _images(kind)), *inside]:
        stem = _image_stem(path)
        if stem in masks:
            raise ValueError(f"{path} and {masks[stem]} are masks of one image: remove one")
        masks[stem] = path
    return masks


def _image_stem(mask: Path) -> str:
    return mask.stem[: -len(_MASK_ENDING)] if _is_mask(mask) else mask.stem


def _is_mask(path: Path) -> bool:
    return path.stem.lower().endswith(_MASK_ENDING)


def _images(folder: Path) -> list[Path]:
    """Its JPEG and PNG files, sorted. ValueError if it has images that would not be read."""
    for path in _visible(folder):
        if path.suffix.lower() in _OTHER_IMAGES or (path.is_dir() and path.name != _MASKS):
            raise ValueError(f"{path}: a class folder has JPEG and PNG files, and {_MASKS}/")
    return sorted(path for path in _visible(folder) if path.suffix.lower() in SUFFIXES)


def _visible(folder: Path) -> Iterator[Path]:
    """Its files and folders, but not those that programs hide."""
    return (path for path in folder.iterdir() if not path.name.startswith((".", "__")))
