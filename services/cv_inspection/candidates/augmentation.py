"""Pictures of the same parts, as another moment of the line might have shown them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.features.labelled_images import Pictures


def varied(pictures: Pictures, light: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flipped, moved and re-lit: (N, S, S, 3) uint8 and (N, S, S) float32.

    Args:
        light: Standard deviation of the logarithm of the gain; of gamma, three quarters of it.
    """
    pixels = torch.from_numpy(pictures.vectors).permute(0, 3, 1, 2).float()
    both = torch.cat([pixels, torch.from_numpy(pictures.mask)[:, None].float()], dim=1)
    grid = functional.affine_grid(_moves(len(pictures), rng), list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    gain, gamma = (
        torch.from_numpy(rng.lognormal(0.0, spread, (len(pixels), 1, 1, 1))).float()
        for spread in (light, 0.75 * light)
    )
    lit = 255 * gain * (moved[:, :3] / 255).clamp(0, 1) ** gamma
    pixels = lit.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels, (moved[:, 3] > 0.5).float()


def _moves(count: int, rng: np.random.Generator) -> Tensor:
    """(N, 2, 3) affine maps: mirrored, turned by quarters and a little more, scaled, shifted."""
    angle = rng.integers(0, 4, count) * np.pi / 2 + rng.normal(0.0, 0.05, count)
    scale = rng.uniform(0.85, 1.1, count)
    mirror = rng.choice([-1.0, 1.0], count)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = rng.uniform(-0.1, 0.1, (2, count))
    rows = np.stack([[cos * mirror, -sin, x], [sin * mirror, cos, y]])
    return torch.from_numpy(rows.transpose(2, 0, 1).copy()).float()
