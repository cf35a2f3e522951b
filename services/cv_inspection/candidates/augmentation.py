"""Augmentation: the same parts with other positions, orientations and exposure."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.features.labelled_images import LabelledImages


class Batch(NamedTuple):
    """N images to train on, on the device of training.

    Attributes:
        pixels: (N, 3, H, W) float32, 0..255.
        mask: (N, H, W) float32, 1 where the defect is.
        label: (N,) index of the class, 0 for good.
    """

    pixels: Tensor
    mask: Tensor
    label: Tensor


# Changes a batch, between its images' move and their exposure.
Change = Callable[[Batch, np.random.Generator], Batch]


def augment(
    images: LabelledImages,
    exposure_jitter: float,
    rng: np.random.Generator,
    device: torch.device,
    size: tuple[int, int],
    change: Change | None = None,
) -> Batch:
    """Flip, rotate, scale, shift and re-expose images. The pixels are whole numbers.

    Args:
        exposure_jitter: Standard deviation of the logarithm of the gain; that of gamma is three
            quarters of it.
        size: Height and width of the batch, pixels.
        change: What else is done, such as `Pasting`.
    """
    batch = move(images, rng, device, size)
    if change is not None:
        batch = change(batch, rng)
    gain, gamma = (
        torch.from_numpy(rng.lognormal(0.0, spread, (len(images), 1, 1, 1))).float().to(device)
        for spread in (exposure_jitter, 0.75 * exposure_jitter)
    )
    exposed = 255 * gain * (batch.pixels / 255).clamp(0, 1) ** gamma
    return batch._replace(pixels=exposed.clamp(0, 255).floor())


def move(
    images: LabelledImages,
    rng: np.random.Generator,
    device: torch.device,
    size: tuple[int, int],
    padding: str = "reflection",
) -> Batch:
    """Flip, rotate, scale and shift images and their masks.

    Args:
        size: Height and width of the batch, pixels.
        padding: What is beyond an image's edge, as `grid_sample` takes it.
    """
    pixels = torch.from_numpy(images.vectors).to(device).permute(0, 3, 1, 2).float()
    mask = torch.from_numpy(images.mask).to(device)[:, None].float()
    both = torch.cat([pixels, mask], dim=1)
    maps = _affine_maps(len(images), rng, pixels.shape[2] == pixels.shape[3]).to(device)
    grid = functional.affine_grid(maps, [*both.shape[:2], *size], align_corners=False)
    moved = functional.grid_sample(both, grid, padding_mode=padding, align_corners=False)
    label = torch.from_numpy(images.label).to(device)
    return Batch(moved[:, :3], (moved[:, 3] > 0.5).float(), label)


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
