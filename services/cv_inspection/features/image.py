"""An image as a model gets it, and the measures of its quality."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.cv_inspection.ingestion.events import Quality
from services.platform.types import Booleans, Floats

# Quality is measured at one size, because sharpness depends on it.
_QUALITY_SIDE: Final = 128
QUALITY_MEASURES = ("brightness", "contrast", "sharpness", "clipped")

Pixels = npt.NDArray[np.uint8]


def resize(image: Image.Image, size: int) -> Pixels:
    """(size, size, 3) uint8 of an RGB image, the input of every model here."""
    small = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small, dtype=np.uint8)


def resize_mask(mask: Image.Image, size: int) -> Booleans:
    """(size, size): true where at least a quarter of the area behind a pixel is defect."""
    small = mask.convert("L").resize((size, size), Image.Resampling.BOX)
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
