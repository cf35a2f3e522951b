"""Decode image files, and reject those that no camera sends."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_BYTES = 16 << 20
MAX_PIXELS = 25_000_000
MIN_SIDE = 32
_FORMATS = ("JPEG", "PNG")


class InvalidImage(ValueError):
    """A file that is not inspected; the message says why."""


def decode(data: bytes) -> Image.Image:
    """A file's image as 8-bit RGB; its size is checked before its pixels are decompressed.

    Grey, RGB, 16-bit grey and opaque alpha are accepted.

    Raises:
        InvalidImage: it is not a JPEG or PNG, is truncated, too small or too large, or has a colour
            mode that no camera here sends.
    """
    if len(data) > MAX_BYTES:
        raise InvalidImage(f"{len(data):,} bytes; the maximum is {MAX_BYTES:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(*image.size)
            image.load()
    except UnidentifiedImageError:
        raise InvalidImage(f"not a {' or '.join(_FORMATS)}: it begins with {data[:8]!r}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(f"far more pixels than the maximum of {MAX_PIXELS:,}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InvalidImage):
            raise
        raise InvalidImage(f"it can't be decoded: {error}") from None
    return _rgb(image)


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(f"{width} x {height} pixels; the minimum side is {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise InvalidImage(f"{width} x {height} pixels; the maximum is {MAX_PIXELS:,}")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image.convert("RGB")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise InvalidImage("it is partly transparent: the colours behind it are unknown")
        return image.convert("RGB")
    raise InvalidImage(f"its colours are {image.mode}; a camera sends grey or RGB")
