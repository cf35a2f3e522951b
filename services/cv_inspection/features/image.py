"""An image as a model sees it, and the figures that describe its quality."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.ingestion.events import Quality

# Pictures are compared at one size: sharpness depends on it.
_QUALITY_SIDE: Final = 128
QUALITY = ("brightness", "contrast", "sharpness", "clipped")

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def scaled(image: Image.Image, size: int) -> Pixels:
    """(size, size, 3) uint8 of an RGB picture, as every model here is given it."""
    small = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small, dtype=np.uint8)


def scaled_mask(mask: Image.Image, size: int) -> npt.NDArray[np.bool_]:
    """(size, size): where a quarter of what a pixel stands for is defect."""
    small = mask.convert("L").resize((size, size), Image.Resampling.BOX)
    return np.asarray(small) > 63


def figures(image: Image.Image) -> Floats:
    """(Q,) `quality` as an array, in the order of `QUALITY`."""
    seen = quality(image)
    return np.array([getattr(seen, name) for name in QUALITY])


def quality(image: Image.Image) -> Quality:
    """What an RGB picture is like.

    brightness, contrast: mean and standard deviation of its grey, 0..1. sharpness: standard
    deviation of its Laplacian (Pech-Pacheco et al., 2000). clipped: share of pixels at an end of
    the scale.
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
