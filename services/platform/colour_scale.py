"""One colour scale for maps of scores, fixed to the threshold: a colour means the same on each.

A level has 8 bits. Level 0 is score 0, level 255 twice the threshold or more, and levels from 128
on are above the threshold. Below it blue fades with the score, above it orange turns to yellow, and
white outlines it: blue and yellow differ under all common kinds of colour blindness (Wong,
"Points of view: Color blindness", Nature Methods 2011), and brightness rises along the scale.
"""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from services.platform.types import Floats32

Levels = npt.NDArray[np.uint8]
# The first level above the threshold.
ABOVE: Final = 128
_THRESHOLD_COLOUR = (255, 255, 255, 255)
# Level, red, green, blue and opacity; linear between them.
_STOPS: Final = np.array(
    [
        (0, 0, 70, 160, 0), (ABOVE - 1, 20, 110, 210, 150),
        (ABOVE, 224, 120, 0, 170), (255, 255, 236, 80, 225),
    ]
)  # fmt: skip
# (256, 4) the colour of each level.
_TABLE: Final = np.stack(
    [np.interp(np.arange(256), _STOPS[:, 0], _STOPS[:, channel]) for channel in range(1, 5)], axis=1
).round().astype(np.uint8)  # fmt: skip
# The outline's width is a side's length over this, at least a pixel.
_OUTLINE_SHARE = 200
# Grey behind the bar: a photograph's own.
_GROUND = 110


def levels_of(score: Floats32, threshold: float) -> Levels:
    """The levels of scores, 0 at 0 and `ABOVE` right above the threshold, which is positive.

    >>> levels_of(np.array([-1.0, 0.0, 0.5, 0.51, 1.0, 9.0], np.float32), 0.5)
    array([  0,   0, 127, 130, 255, 255], dtype=uint8)
    """
    level = (ABOVE - 1) + np.ceil(ABOVE * (score / threshold - 1.0))
    return np.asarray(level.clip(0, 255), dtype=np.uint8)


def read_levels(png: bytes, channel: int = 0) -> Levels:
    """(H, W) levels of a channel of a map. A mask of black and white is at level 0 or `ABOVE`.

    Raises:
        ValueError: it is no image, or has no such channel.
    """
    image = Image.open(io.BytesIO(png))
    if image.mode == "1":
        return np.where(np.asarray(image), ABOVE, 0).astype(np.uint8)
    if channel >= len(image.getbands()):
        raise ValueError(f"the map has {len(image.getbands())} channels, and no {channel}")
    return np.asarray(image.getchannel(channel))


def overlay(levels: Levels) -> Image.Image:
    """(H, W) levels as colours, to lay over a grey image: RGBA, with the threshold's outline."""
    colours = _TABLE[levels]
    above = Image.fromarray(np.where(levels >= ABOVE, 255, 0).astype(np.uint8))
    width = max(round(max(levels.shape) / _OUTLINE_SHARE), 1)
    inner = above.filter(ImageFilter.MinFilter(2 * width + 1))
    colours[(np.asarray(above) > 0) & (np.asarray(inner) == 0)] = _THRESHOLD_COLOUR
    return Image.fromarray(colours)


def laid_over(image: Image.Image, levels: Levels, size: tuple[int, int]) -> Image.Image:
    """A grey copy of an image at a size (width, height), with the colours of its map."""
    grey = image.convert("L").convert("RGBA").resize(size)
    resized = Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(grey, overlay(np.asarray(resized))).convert("RGB")


def colour_bar(width: int = 256, height: int = 12) -> Image.Image:
    """The scale from 0 to twice the threshold, with a mark at the threshold, on grey."""
    levels = np.broadcast_to(np.linspace(0, 255, width).round().astype(np.uint8), (height, width))
    ground = Image.new("RGBA", (width, height), (_GROUND, _GROUND, _GROUND, 255))
    bar = Image.alpha_composite(ground, Image.fromarray(_TABLE[levels]))
    middle = width // 2
    ImageDraw.Draw(bar).rectangle((middle - 1, 0, middle, height), fill=_THRESHOLD_COLOUR)
    return bar.convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """A PNG file of an image, compressed fast."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
