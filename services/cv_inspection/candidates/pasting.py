"""Pasting: a good part gets the defect of another, so that defects are seen on more parts.

Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", 2021; here with the defect's brightness matched to its new surroundings.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.candidates.augmentation import Batch, move
from services.cv_inspection.features.labelled_images import LabelledImages

# A defect that covers more of an image than this is a property of the whole part.
_MAX_COVERED = 0.1
# Sides of squares, pixels: by how much the pasted patch is wider than the defect, over what its
# edge fades, and how far the surroundings reach that brightness is compared on.
_NEAR_SIDE, _FADE_SIDE, _RING_SIDE = 7, 5, 21
# Added to a brightness that another is divided by, grey levels.
_MIN_BRIGHTNESS = 4.0


class Pasting:
    """Pastes defects of training images into good images of a batch.

    Args:
        images: All training images; the defects are theirs.
        share: Of the good images, which get one.
    """

    def __init__(self, images: LabelledImages, share: float) -> None:
        covered = images.mask.mean(axis=(1, 2))
        self._images = images
        self._donors = np.flatnonzero(images.positive & (covered > 0) & (covered < _MAX_COVERED))
        self._share = share

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch with pasted defects; their images have the label of the defect's image."""
        good = np.flatnonzero(batch.label.cpu().numpy() == 0)
        rows = good[rng.random(len(good)) < self._share]
        if not len(rows) or not len(self._donors):
            return batch
        donors = self._images.select(rng.choice(self._donors, len(rows)))
        height, width = batch.mask.shape[1:]
        source = move(donors, rng, batch.pixels.device, (height, width), padding="zeros")
        pasted = paste(batch.pixels[rows], source)
        # A defect may have been moved out of the image.
        shown = source.mask.flatten(1).any(dim=1)
        to = torch.from_numpy(rows).to(shown.device)[shown]
        pixels, mask, label = (part.clone() for part in batch)
        pixels[to], mask[to], label[to] = pasted[shown], source.mask[shown], source.label[shown]
        return Batch(pixels, mask, label)


def paste(pixels: Tensor, source: Batch) -> Tensor:
    """(N, 3, H, W) images of good parts, each with the defect of one of `source`."""
    defect = source.mask[:, None]
    near = _dilate(defect, _NEAR_SIDE)
    ring = _dilate(defect, _RING_SIDE) - near
    opacity = functional.avg_pool2d(near, _FADE_SIDE, stride=1, padding=_FADE_SIDE // 2)
    ratio = (_mean_on(pixels, ring) + _MIN_BRIGHTNESS) / (
        _mean_on(source.pixels, ring) + _MIN_BRIGHTNESS
    )
    return pixels * (1 - opacity) + opacity * (source.pixels * ratio).clamp(0, 255)


def _dilate(mask: Tensor, side: int) -> Tensor:
    """(N, 1, H, W) grown by a square; one side at a time, which is the same and faster."""
    rows = functional.max_pool2d(mask, (side, 1), stride=1, padding=(side // 2, 0))
    return functional.max_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))


def _mean_on(pixels: Tensor, where: Tensor) -> Tensor:
    """(N, 3, 1, 1) mean of each channel where `where`, (N, 1, H, W), is 1."""
    count = where.sum(dim=(2, 3), keepdim=True) + 1
    return (pixels * where).sum(dim=(2, 3), keepdim=True) / count
