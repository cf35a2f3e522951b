"""An image as a model gets it, and the measures of its quality."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.ingestion.events import Quality
from services.platform.types import Booleans, Floats

# Quality is measured at one size, because sharpness depends on it.
_QUALITY_SIDE: Final = 128
# The deepest level of the encoders has one value for so many pixels of a side.
_STRIDE: Final = 32
QUALITY_MEASURES = ("brightness", "contrast", "sharpness", "clipped")

Pixels = npt.NDArray[np.uint8]
# A model's input: the side of a square, or (height, width), pixels.
ImageSize = int | tuple[int, int]
# (left, top, right, bottom) in an image, pixels; right and bottom are outside.
Box = tuple[int, int, int, int]


def height_width(size: ImageSize) -> tuple[int, int]:
    """Both sides of an input.

    >>> height_width(128), height_width((192, 480))
    ((128, 128), (192, 480))
    """
    return (size, size) if isinstance(size, int) else size


def parse_size(value: object) -> tuple[int, int]:
    """(height, width) of a conf's `size`: the side of a square, or both sides.

    >>> parse_size(128), parse_size([192, 480])
    ((128, 128), (192, 480))

    Raises:
        ValueError: it is neither, or a side is no multiple of the encoders' stride.
    """
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"size: {value!r} is neither a side nor [height, width]")
    if any(side < _STRIDE or side % _STRIDE for side in sides):
        raise ValueError(f"size: {value!r}; the sides are multiples of {_STRIDE} pixels")
    return int(sides[0]), int(sides[1])


def read_size(text: str) -> tuple[int, int]:
    """(height, width) of an input on the command line: a side, or HEIGHTxWIDTH.

    >>> read_size("256"), read_size("192x480")
    ((256, 256), (192, 480))

    Raises:
        ValueError: it is neither, or see `parse_size`.
    """
    sides = text.split("x")
    if not all(side.isdecimal() for side in sides):
        raise ValueError(
            f"--image-size {text!r} is neither a side (256) nor HEIGHTxWIDTH (192x480)"
        )
    return parse_size([int(side) for side in sides] if len(sides) > 1 else int(text))


def resize(image: Image.Image, size: ImageSize, box: Box | None = None) -> Pixels:
    """(H, W, 3) uint8 of an RGB image, or of a box of it: the input of every model here."""
    height, width = height_width(size)
    small = image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.asarray(small, dtype=np.uint8)


def resize_mask(mask: Image.Image, size: ImageSize) -> Booleans:
    """(H, W): true where at least a quarter of the area behind a pixel is defect."""
    height, width = height_width(size)
    small = mask.convert("L").resize((width, height), Image.Resampling.BOX)
    return np.asarray(small) > 63


def quality_vector(image: Image.Image) -> Floats:
    """(Q,) quality of an RGB image, in the order of `QUALITY_MEASURES`."""
    quality = measure_quality(image)
    return np.array([getattr(quality, name) for name in QUALITY_MEASURES])


def measure_quality(image: Image.Image) -> Quality:
    """Measure the quality of an RGB image.

    brightness, contrast: mean and standard deviation of its grey values, 0..1.
    sharpness: standard deviation of its Laplacian (Pech-Pacheco et al., 2000).
    clipped: share of pixels at either end of the scale.
    """
    side = _QUALITY_SIDE
    small = image.convert("L").resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(small, dtype=np.float64) / 255.0
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return Quality(
        brightness=float(grey.mean()),
        contrast=float(grey.std()),
        sharpness=float(laplacian.std()),
        clipped=float(((grey <= 1 / 255) | (grey >= 254 / 255)).mean()),
    )
