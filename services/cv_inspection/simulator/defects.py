"""Defects: each function draws a defect's mask, exact to the pixel, and its change of reflectance.

All take a generator and a size, and return (mask, change): (S, S) coverage in 0..1, and the
reflectance that is added where it is 1. `severity` in 0..1 is its contrast.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from services.cv_inspection.simulator.surfaces import Reflectance

DefectPattern = tuple[Reflectance, float]
_OVERSAMPLING = 2


def _canvas(size: int) -> tuple[Pillow.Image, ImageDraw.ImageDraw]:
    canvas = Pillow.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
    return canvas, ImageDraw.Draw(canvas)


def _coverage(canvas: Pillow.Image) -> Reflectance:
    """(S, S) coverage of the drawing, with antialiased edges."""
    small = canvas.reduce(_OVERSAMPLING)
    return np.asarray(small, dtype=np.float32) / 255.0


def _walk(
    rng: np.random.Generator, size: int, steps: int, turn: float
) -> list[tuple[float, float]]:
    """A path that starts inside the image and turns by at most `turn` radians a step."""
    at = rng.uniform(0.2, 0.8, 2) * size * _OVERSAMPLING
    angle = rng.uniform(0, 2 * np.pi)
    length = size * _OVERSAMPLING * rng.uniform(0.03, 0.06)
    path = [(float(at[0]), float(at[1]))]
    for _ in range(steps):
        angle += rng.uniform(-turn, turn)
        at = at + length * np.array([np.cos(angle), np.sin(angle)])
        path.append((float(at[0]), float(at[1])))
    return path


def scratch(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """A long, thin, nearly straight, bright line."""
    canvas, draw = _canvas(size)
    draw.line(_walk(rng, size, int(rng.integers(5, 12)), 0.15), fill=255, width=3)
    return _coverage(canvas), 0.10 + 0.22 * severity


def pit(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """One to three small dark holes, close together."""
    canvas, draw = _canvas(size)
    centre = rng.uniform(0.15, 0.85, 2) * size * _OVERSAMPLING
    for _ in range(int(rng.integers(1, 4))):
        x, y = centre + rng.normal(0, 12, 2) * _OVERSAMPLING
        a, b = rng.uniform(2.5, 6.0, 2) * _OVERSAMPLING * size / 256
        draw.ellipse((x - a, y - b, x + a, y + b), fill=255)
    return _coverage(canvas), -(0.12 + 0.22 * severity)


def crack(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """A dark, jagged line that may fork."""
    canvas, draw = _canvas(size)
    path = _walk(rng, size, int(rng.integers(6, 14)), 0.8)
    draw.line(path, fill=255, width=3)
    if rng.random() < 0.5:
        fork = path[len(path) // 2]
        end = np.array(fork) + rng.normal(0, 0.12 * size * _OVERSAMPLING, 2)
        draw.line([fork, (float(end[0]), float(end[1]))], fill=255, width=2)
    return _coverage(canvas), -(0.10 + 0.20 * severity)


def stain(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """A dark patch with a soft edge."""
    noise = ndimage.gaussian_filter(rng.standard_normal((size // 4, size // 4)), 5)
    y, x = np.mgrid[0 : size // 4, 0 : size // 4] / (size // 4)
    cy, cx = rng.uniform(0.25, 0.75, 2)
    radius = rng.uniform(0.08, 0.18)
    inside = radius - np.hypot(y - cy, x - cx) + 0.6 * noise / (noise.std() + 1e-9) * 0.06
    soft = np.clip(inside / 0.05 + 0.5, 0, 1)
    return np.kron(soft, np.ones((4, 4))).astype(np.float32), -(0.07 + 0.16 * severity)


def missing_thread(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """A missing thread of the weave: a dark band, one pitch wide."""
    cover = np.zeros((size, size), np.float32)
    at, begin = int(rng.integers(8, size - 16)), int(rng.integers(0, size // 2))
    length = int(rng.integers(size // 4, size // 2 + 1))
    width = int(rng.integers(3, 6))
    cover[at : at + width, begin : begin + length] = 1.0
    return (cover.T.copy() if rng.random() < 0.5 else cover), -(0.12 + 0.22 * severity)


def dent(rng: np.random.Generator, size: int, severity: float) -> DefectPattern:
    """A ring-shaped bright dent; no model is trained on it (a drift)."""
    y, x = np.mgrid[0:size, 0:size]
    cy, cx = rng.uniform(0.2, 0.8, 2) * size
    radius = rng.uniform(0.05, 0.1) * size
    ring = np.exp(-(((np.hypot(y - cy, x - cx) - radius) / (0.35 * radius)) ** 2))
    return ring.astype(np.float32), 0.14 + 0.2 * severity


DEFECT_GENERATORS: dict[str, Callable[[np.random.Generator, int, float], DefectPattern]] = {
    "scratch": scratch,
    "pit": pit,
    "crack": crack,
    "stain": stain,
    "missing_thread": missing_thread,
    "dent": dent,
}
