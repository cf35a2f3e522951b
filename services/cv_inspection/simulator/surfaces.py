"""Surfaces: brushed steel, magnetic tile, woven textile.

A large sheet of each is made once from its seed; an image is a window somewhere on it, so that
making one costs a copy. Values are reflectance, float32 around 0.5.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Reflectance = npt.NDArray[np.float32]

SHEET = 1_024
STEEL, TILE, TEXTILE = "steel", "tile", "textile"


def _standardised(noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (noise - noise.mean()) / (noise.std() + 1e-9)


def steel(rng: np.random.Generator) -> Reflectance:
    """Brushed steel: fine lines along x, with slow changes across."""
    lines = ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), (0.6, 40), mode="wrap")
    slow = ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), (60, 90), mode="wrap")
    return (0.55 + 0.055 * _standardised(lines) + 0.03 * _standardised(slow)).astype(np.float32)


def tile(rng: np.random.Generator) -> Reflectance:
    """Sintered magnetic tile: dark, grainy, with faint grinding marks."""
    grain = ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), 1.2, mode="wrap")
    marks = ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), (25, 1.0), mode="wrap")
    return (0.38 + 0.035 * _standardised(grain) + 0.025 * _standardised(marks)).astype(np.float32)


def textile(rng: np.random.Generator) -> Reflectance:
    """A plain weave of slightly wavy threads; the pitch is 8 px."""
    y, x = np.mgrid[0:SHEET, 0:SHEET].astype(np.float64)
    wobble = _standardised(
        ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), 30, mode="wrap")
    )
    warp, weft = np.pi * (x + wobble) / 4, np.pi * (y - wobble) / 4
    over = np.sign(np.sin(warp / 2)) * np.sign(np.sin(weft / 2))
    threads = np.where(over > 0, np.abs(np.sin(warp)), np.abs(np.sin(weft)))
    fibre = ndimage.gaussian_filter(rng.standard_normal((SHEET, SHEET)), 0.8, mode="wrap")
    return (0.42 + 0.22 * threads + 0.03 * _standardised(fibre)).astype(np.float32)


SURFACES = {STEEL: steel, TILE: tile, TEXTILE: textile}
# Defects that each surface can have.
DEFECTS = {
    STEEL: ("scratch", "pit", "stain"),
    TILE: ("pit", "crack", "scratch"),
    TEXTILE: ("missing_thread", "stain"),
}


@lru_cache(maxsize=8)
def sheet(surface: str, seed: int) -> Reflectance:
    """(SHEET, SHEET) of a surface; the same for the same seed."""
    reflectance = SURFACES[surface](np.random.default_rng([seed, len(surface)]))
    reflectance.setflags(write=False)
    return reflectance


def window(surface: str, seed: int, size: int, rng: np.random.Generator) -> Reflectance:
    """(size, size) at a random position of a sheet."""
    whole = sheet(surface, seed)
    y, x = rng.integers(0, SHEET - size, 2)
    return whole[y : y + size, x : x + size].copy()
