"""The map of an inspected image: how bad each pixel is, on the scale of `platform.colour_scale`.

A map is a PNG of 8-bit levels with one or two channels: the pixel's defect score, P(defect) of the
mask head, whose threshold is the mask's; and the novelty of the patch, whose threshold is the
model's limit for the whole image. Files of models without a novelty for each patch have the first
channel alone.
"""

from typing import Final

import numpy as np
from PIL import Image

from services.cv_inspection.features.image import Box
from services.cv_inspection.features.tiling import merge_scores
from services.platform.colour_scale import Levels, levels_of, to_png
from services.platform.types import Floats32

# Numbers of the channels.
DEFECT: Final = 0
NOVELTY: Final = 1
# A pixel above it is in the mask: its logit is positive.
DEFECT_THRESHOLD: Final = 0.5
# Of a map, pixels: a network has no more detail, and the PNG of 12 megapixels takes a second.
MAX_SIDE: Final = 640


def defect_levels(logits: Floats32, boxes: list[Box], width: int, height: int) -> Levels:
    """(h, w) levels of the defect score of an image of width x height.

    Args:
        logits: (T, H, W) mask logits of its tiles.
        boxes: Where the tiles are in the image.
    """
    merged = merge_scores(logits, boxes, width, height, MAX_SIDE)
    return levels_of(0.5 + 0.5 * np.tanh(0.5 * merged), DEFECT_THRESHOLD)


def novelty_levels(
    patches: Floats32, boxes: list[Box], width: int, height: int, limit: float
) -> Levels:
    """(h, w) levels of the novelty of patches, (T, h, w) of its tiles, by a positive limit."""
    return levels_of(merge_scores(patches, boxes, width, height, MAX_SIDE), limit)


def map_png(defect: Levels, novelty: Levels | None) -> bytes:
    """A map as a PNG file, see the module."""
    if novelty is None:
        return to_png(Image.fromarray(defect))
    return to_png(Image.merge("LA", [Image.fromarray(defect), Image.fromarray(novelty)]))
