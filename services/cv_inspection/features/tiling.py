"""Images that are larger than a model can see: cut into overlapping tiles, and merged again.

A model's input has few pixels. Where more than `max_reduction` pixels of an image would fall on one
of them, a small defect vanishes, so the image is cut into tiles that the model sees at that
reduction. Training and inspection cut alike. An image is as bad as its worst tile, and a pixel is
defect where any tile says so: the overlap shows a defect on a border whole to one of the two.
"""

import numpy as np
from PIL import Image

from services.cv_inspection.features.image import Box, ImageSize, Pixels, height_width, resize
from services.platform.types import Booleans, Floats32

# Share of a tile that its neighbour shows, too.
_OVERLAP = 0.25


def tile_boxes(width: int, height: int, size: ImageSize, max_reduction: float) -> list[Box]:
    """The boxes that cover an image, row by row; one box where the model sees it whole.

    Args:
        width: Of the image, pixels.
        height: Of the image, pixels.
        size: The model's input.
        max_reduction: Pixels of the image that may fall on one of the input, along a side; infinity
            never cuts.

    >>> tile_boxes(256, 256, 128, 4.0)
    [(0, 0, 256, 256)]
    >>> tile_boxes(1000, 256, 128, 4.0)
    [(0, 0, 512, 256), (244, 0, 756, 256), (488, 0, 1000, 256)]
    """
    rows, columns = height_width(size)
    return [
        (left, top, right, bottom)
        for top, bottom in _spans(height, rows * max_reduction)
        for left, right in _spans(width, columns * max_reduction)
    ]


def _spans(length: int, largest: float) -> list[tuple[int, int]]:
    """Overlapping spans of equal length that cover 0..length."""
    if length <= largest:
        return [(0, length)]
    span = int(largest)
    count = 1 + int(np.ceil((length - span) / (span * (1 - _OVERLAP))))
    starts = np.linspace(0, length - span, count).round().astype(int).tolist()
    return [(start, start + span) for start in starts]


def cut(image: Image.Image, boxes: list[Box], size: ImageSize) -> Pixels:
    """(T, H, W, 3) uint8: the boxes of an RGB image, each at the model's size."""
    return np.stack([resize(image, size, box) for box in boxes])


def merge_masks(logits: Floats32, boxes: list[Box], width: int, height: int) -> Booleans:
    """(height, width): where any tile's mask is positive, in the image's own pixels.

    Args:
        logits: (T, H, W) mask logits of the tiles, scaled up bilinearly.
    """
    merged = np.zeros((height, width), dtype=bool)
    for tile, (left, top, right, bottom) in zip(logits, boxes, strict=True):
        if tile.max() > 0:
            large = Image.fromarray(tile).resize(
                (right - left, bottom - top), Image.Resampling.BILINEAR
            )
            merged[top:bottom, left:right] |= np.asarray(large) > 0
    return merged


def merge_scores(
    scores: Floats32, boxes: list[Box], width: int, height: int, max_side: int
) -> Floats32:
    """(h, w): the highest score of any tile, at the image's size, or smaller with its aspect.

    Args:
        scores: (T, H, W) of the tiles, scaled up bilinearly.
        max_side: Of the result, pixels.
    """
    shrink = min(max_side / max(width, height), 1.0)
    merged = np.full((_scaled(height, shrink), _scaled(width, shrink)), -np.inf, dtype=np.float32)
    for tile, box in zip(scores, boxes, strict=True):
        left, top, right, bottom = (_scaled(edge, shrink) for edge in box)
        size = max(right - left, 1), max(bottom - top, 1)
        large = np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BILINEAR))
        part = merged[top:bottom, left:right]
        np.maximum(part, large[: part.shape[0], : part.shape[1]], out=part)
    return merged


def _scaled(pixels: int, shrink: float) -> int:
    return round(pixels * shrink)
