"""Image files as cameras, tools and broken transfers write them."""

import io

import numpy as np
from PIL import Image


def part(size=256, seed=1):
    """(S, S) uint8: an ordinary grey part with one dark defect."""
    rng = np.random.default_rng(seed)
    grey = 120 + 12 * rng.standard_normal((size, size))
    grey[size // 4 : size // 2, size // 2 : size // 2 + size // 6] -= 60
    return grey.clip(0, 255).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    """An array's or an image's file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(pixels, colour=True, **options):
    image = Image.fromarray(pixels)
    return encoded(image.convert("RGB") if colour else image, "JPEG", **{"quality": 90, **options})


def cut_and_closed(data, share):
    """A JPEG that ends early, and says so."""
    return data[: int(len(data) * share)] + b"\xff\xd9"


def zeroed(data, share):
    """A JPEG whose end was overwritten with zeros, as by a full disk."""
    keep = int(len(data) * share)
    return data[:keep] + bytes(len(data) - keep - 2) + b"\xff\xd9"


# The ways in which encoders write the same pixels.
ENCODINGS = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "low quality": {"quality": 25},
    "restart rows": {"restart_marker_rows": 1},
    "restart blocks": {"restart_marker_blocks": 3, "optimize": True},
}
