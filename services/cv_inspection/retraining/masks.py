"""Read the mask of a training image, however an annotation tool wrote it.

A mask says where the defect is. Tools write it as 0 and 1, 0 and 255, class numbers, a palette, or
white with the defect in the alpha channel. A file that may mean two things is refused with what was
found in it.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.ingestion.images import InvalidImage, load

_Values = npt.NDArray[np.uint32]

# More values than data sets have classes are shades.
_MAX_CLASSES = 32
# A mask that was scaled, smoothed or stored as JPEG: grey only along its edges.
_MIN_SHARE_OF_ENDS = 0.8
_DARK, _BRIGHT = 31, 224
# How far the sides of a mask and its image may differ in ratio: scaled masks are rounded.
_ASPECT_TOLERANCE = 0.02


class InvalidMask(ValueError):
    """A mask that can't be read without guessing; the message says what was found."""


def read_mask(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The mask of an image of `size`: (H, W) 8-bit grey, 255 where the defect is.

    Edges that are grey in the file stay grey.

    Raises:
        InvalidMask: it is not a whole PNG or JPEG, lies otherwise than its image, or may mean two
            things.
    """
    try:
        image = load(data)
    except InvalidImage as error:
        raise InvalidMask(f"mask: {error}") from None
    _check_shape(image.size, size)
    return Image.fromarray(_from_values(*_values(image)))


def _check_shape(mask: tuple[int, int], image: tuple[int, int]) -> None:
    ratio = (mask[0] * image[1]) / (mask[1] * image[0])
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise InvalidMask(
            f"mask of {mask[0]} x {mask[1]} pixels for an image of {image[0]} x {image[1]}, as its "
            "EXIF orientation turns it; export the mask at the image's size, or scaled with the "
            "same ratio of its sides, or remove it"
        )


def _values(image: Image.Image) -> tuple[_Values, bool]:
    """(H, W) values of a mask, 0 for the background, and whether they may be shades."""
    if image.mode == "P" and "transparency" not in image.info:
        return _colours(image.convert("RGB")), False
    if image.mode in ("P", "PA", "LA", "RGBA"):
        return _with_alpha(image.convert("RGBA"))
    if image.mode == "RGB":
        return _rgb(image)
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint32), image.mode == "L"
    raise InvalidMask(f"mask: its colours are {image.mode}")


def _with_alpha(image: Image.Image) -> tuple[_Values, bool]:
    """The alpha channel where the colour is one and the same, the colours where alpha is."""
    alpha = np.asarray(image.getchannel("A"))
    rgb = image.convert("RGB")
    if alpha.min() == alpha.max():
        if not alpha.any():
            raise InvalidMask("mask: it is wholly transparent")
        return _rgb(rgb)
    if all(low == high for low, high in rgb.getextrema()):  # type: ignore[misc]
        return alpha.astype(np.uint32), True
    values, shades = _rgb(rgb)
    if ((values > 0) & (alpha > 0) != (alpha > 0)).any():
        raise InvalidMask("mask: its colours and its alpha channel differ; leave out one of them")
    return np.where(alpha > 0, values, 0).astype(np.uint32), shades


def _rgb(image: Image.Image) -> tuple[_Values, bool]:
    """The grey of a grey image, else a number for each colour."""
    channels = np.asarray(image)
    if (channels == channels[..., :1]).all():
        return channels[..., 0].astype(np.uint32), True
    return _colours(image), False


def _colours(image: Image.Image) -> _Values:
    """A number for each colour of an RGB image, 0 for black."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.uint32), -1, 0)
    colours, numbers = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(colours) > _MAX_CLASSES:
        raise InvalidMask(f"mask: {len(colours):,} colours; is it the image?")
    if colours[0] != 0:
        found = ", ".join(f"#{colour:06x}" for colour in colours[:8])
        raise InvalidMask(f"mask: colours {found} and no black for the background")
    return numbers.reshape(red.shape).astype(np.uint32)


def _from_values(values: _Values, shades: bool) -> npt.NDArray[np.uint8]:
    """(H, W) 0 for the background, 255 for the defect, between them along soft edges."""
    found, counts = np.unique(values, return_counts=True)
    if shades and len(found) > 2 and _is_soft(found, counts):
        return values.astype(np.uint8)
    if not _has_meaning(found, shades):
        shown = ", ".join(str(value) for value in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise InvalidMask(
            f"mask: values {shown}{more}; write 0 for the background and 255 for the defect"
        )
    return np.where(values > 0, 255, 0).astype(np.uint8)


def _is_soft(found: _Values, counts: npt.NDArray[np.int64]) -> bool:
    """Whether the values are black and white with grey edges.

    Dark values alone beside white are class numbers with 255 for "ignore", not edges.
    """
    ends = counts[(found <= _DARK) | (found >= _BRIGHT)].sum() / counts.sum()
    grey = bool(((found > _DARK) & (found < 255)).any())
    return grey and bool(_BRIGHT <= found[-1] <= 255) and bool(ends >= _MIN_SHARE_OF_ENDS)


def _has_meaning(found: _Values, shades: bool) -> bool:
    """Whether every value but 0 can be a class, and 0 the background."""
    if len(found) == 1:
        return int(found[0]) in (0, 1, 255)
    if found[0] != 0:
        return False
    ignore = shades and len(found) > 2 and found[-1] == 255
    return len(found) <= _MAX_CLASSES and not ignore
