"""Augmentation: the same parts with other positions, orientations and exposure."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.features.labelled_images import LabelledImages


def augment(
    images: LabelledImages, exposure_jitter: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale, shift and re-expose images.

    Args:
        exposure_jitter: Standard deviation of the logarithm of the gain; that of gamma is three
            quarters of it.

    Returns:
        (N, H, W, 3) uint8 pixels and (N, H, W) float32 masks.
    """
    pixels = torch.from_numpy(images.vectors).permute(0, 3, 1, 2).float()
    both = torch.cat([pixels, torch.from_numpy(images.mask)[:, None].float()], dim=1)
    square = pixels.shape[2] == pixels.shape[3]
    maps = _affine_maps(len(images), rng, square)
    grid = functional.affine_grid(maps, list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    gain, gamma = (
        torch.from_numpy(rng.lognormal(0.0, spread, (len(pixels), 1, 1, 1))).float()
        for spread in (exposure_jitter, 0.75 * exposure_jitter)
    )
    exposed = 255 * gain * (moved[:, :3] / 255).clamp(0, 1) ** gamma
    pixels = exposed.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels, (moved[:, 3] > 0.5).float()


def _affine_maps(count: int, rng: np.random.Generator, square: bool) -> Tensor:
    """(N, 2, 3): mirror, rotation by quarter turns and a few degrees, scale, shift.

    Images that are not square are rotated by half turns: a quarter turn would stretch them.
    """
    turns = rng.integers(0, 4, count) if square else 2 * rng.integers(0, 2, count)
    angle = turns * np.pi / 2 + rng.normal(0.0, 0.05, count)
    scale = rng.uniform(0.85, 1.1, count)
    mirror = rng.choice([-1.0, 1.0], count)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = rng.uniform(-0.1, 0.1, (2, count))
    rows = np.stack([[cos * mirror, -sin, x], [sin * mirror, cos, y]])
    return torch.from_numpy(rows.transpose(2, 0, 1).copy()).float()
