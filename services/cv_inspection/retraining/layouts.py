"""Find labelled images, their masks and their groups in a folder, by its layout.

Three layouts are known:

- a folder for each class: `FOLDER/<class>/*.jpg|png`, a mask as `<name>_mask.png` beside the image
  or as `masks/<name>.png`;
- MVTec AD (Bergmann et al., 2019): `train/good/*.png`, `test/<class>/*.png`, and
  `ground_truth/<class>/<name>_mask.png`;
- the magnetic tiles: `MT_<class>/Imgs/<name>.jpg`, the mask `<name>.png` beside it, and
  `groups.csv` with the columns path, class and group.

Groups are those of `groups.csv` or of a pattern, see `groups`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from services.cv_inspection.ingestion.labels import is_good
from services.cv_inspection.problem import GOOD
from services.cv_inspection.retraining.groups import GROUPS, group_of, group_rows

SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (
    ".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_MASKS, _MASK_ENDING, _TRUTH = "masks", "_mask", "ground_truth"
_TILE_IMAGES = "MT_*/Imgs"


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
        group_by: See `group_of`. It replaces `groups.csv`.

    Raises:
        ValueError: the layout is broken, or a file has no group; the message names the file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of images")
    rows = group_rows(folder)
    if has_magnetic_tiles(folder) and "class" in rows[0]:
        files = _magnetic_tile(folder, rows)
    elif (folder / "train").is_dir() and (folder / "test").is_dir():
        files = list(_mvtec(folder))
    else:
        files = list(_class_folders(folder))
    if group_by:
        return [replace(f, group=group_of(f.path, folder, group_by)) for f in files], True
    if not rows:
        return files, False
    groups = {(folder / row["path"]).resolve(): row["group"] for row in rows}
    for file in files:
        if file.path.resolve() not in groups:
            raise ValueError(f"{file.path}: {folder / GROUPS} has no row for it; add its group")
    return [replace(file, group=groups[file.path.resolve()]) for file in files], True


def has_magnetic_tiles(folder: Path) -> bool:
    """Whether a folder is the published data set of magnetic tiles, or laid out as it is."""
    return (folder / GROUPS).exists() and any(folder.glob(_TILE_IMAGES))


def _magnetic_tile(folder: Path, rows: list[dict[str, str]]) -> list[LabelledFile]:
    files = []
    for row in rows:
        path = folder / row["path"]
        label = row["class"].removeprefix("MT_").lower()
        if not label:
            raise ValueError(f"{folder / GROUPS}: no class for {row['path']}; add it")
        label = GOOD if label == "free" or is_good(label) else label
        mask = path.with_suffix(".png")
        outlined = mask if label != GOOD and mask.exists() and mask != path else None
        files.append(LabelledFile(path, label, outlined, row["group"]))
    known = {file.path for file in files}
    for path in sorted(folder.glob(f"{_TILE_IMAGES}/*.jpg")):
        if path not in known:
            raise ValueError(f"{path}: {folder / GROUPS} has no row for it; add its group")
    return files


def _mvtec(folder: Path) -> Iterator[LabelledFile]:
    truth = folder / _TRUTH
    for kind in _class_dirs(truth) if truth.is_dir() else ():
        if _images(kind) and not (folder / "test" / kind.name).is_dir():
            raise ValueError(
                f"{kind}: masks of images that are not in {folder / 'test' / kind.name}; add the "
                "images, or remove the masks"
            )
    for kind in _class_dirs(folder / "train"):
        yield from _class_files(folder, kind)
    for kind in _class_dirs(folder / "test"):
        yield from _class_files(folder, kind, truth / kind.name)


def _class_folders(folder: Path) -> Iterator[LabelledFile]:
    for path in _visible(folder):
        if path.suffix.lower() in (*SUFFIXES, *_OTHER_IMAGES):
            raise ValueError(f"{path}: in no class's folder; move it into one, or elsewhere")
        if path.is_dir() and path.name in (_MASKS, _TRUTH):
            raise ValueError(
                f"{path}: masks lie beside the images of a class, as <name>{_MASK_ENDING}.png, or "
                f"in <class>/{_MASKS}/; with {_TRUTH}/ the images lie in train/ and test/"
            )
    for kind in _class_dirs(folder):
        yield from _class_files(folder, kind)


def _class_files(folder: Path, kind: Path, truth: Path | None = None) -> Iterator[LabelledFile]:
    """The images of one class, each a group of its own.

    Args:
        truth: A folder of further masks.
    """
    images: dict[str, Path] = {}
    for path in _images(kind):
        if _is_mask(path):
            continue
        if path.stem in images:
            raise ValueError(
                f"{images[path.stem]} and {path} have one name: if one is the mask, call it "
                f"{path.stem}{_MASK_ENDING}.png, else rename one"
            )
        images[path.stem] = path
    masks = _masks(kind, truth)
    for stem, mask in masks.items():
        if stem not in images:
            raise ValueError(
                f"{mask}: a mask without its image in {kind}; add the image, or remove the mask"
            )
    for stem, path in images.items():
        group = path.relative_to(folder).as_posix()
        yield LabelledFile(path, _label(kind), masks.get(stem), group)


def _label(kind: Path) -> str:
    return GOOD if is_good(kind.name) else kind.name


def _class_dirs(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder) if path.is_dir())


def _masks(kind: Path, truth: Path | None) -> dict[str, Path]:
    """The masks of a class, by the stem of their image."""
    masks: dict[str, Path] = {}
    inside = (kind / _MASKS, truth)
    elsewhere = [path for place in inside if place and place.is_dir() for path in _images(place)]
    for path in [*filter(_is_mask, _images(kind)), *elsewhere]:
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
