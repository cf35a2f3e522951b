"""Decode image files, and reject those that no camera sends."""

import warnings
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from services.cv_inspection.ingestion.whole_file import NotWhole, open_source

MAX_BYTES = 16 << 20
# What is read of an object or a file: enough to refuse a larger one.
READ_BYTES = MAX_BYTES + 1
MAX_PIXELS = 25_000_000
MIN_SIDE = 32
# A model's image is hardly longer than wide, so a strip is squeezed: at 8 to 1 a defect keeps an
# eighth of its length. The real tiles reach 2.8 to 1.
MAX_ASPECT = 8
_FORMATS = ("JPEG", "PNG")
_ORIENTATION_TAG: Final = 0x0112
# How an image is turned for display, by EXIF orientation (CIPA DC-008, 4.6.5.1).
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH = slice(24, 25)


class InvalidImage(ValueError):
    """A file that is not inspected; the message says why."""


def decode(data: bytes) -> Image.Image:
    """A file's image as 8-bit RGB, turned as its EXIF orientation says.

    Its size is checked before its pixels are decompressed. Grey, RGB, 16 bits a channel and opaque
    alpha are accepted.

    Raises:
        InvalidImage: it is not a JPEG or PNG, is not whole, too small, too large or too long, uses
            only the low bits of 16, or has a colour mode that no camera here sends.
    """
    image = load(data)
    _check_aspect(*image.size)
    return upright(image, _rgb(image, deep=_is_deep(data, image)))


def load(data: bytes) -> Image.Image:
    """A whole file's image, as it is stored. InvalidImage names what is wrong with it."""
    if len(data) > MAX_BYTES:
        raise InvalidImage(f"more than the maximum of {MAX_BYTES:,} bytes")
    try:
        source = open_source(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=_FORMATS)
            _check_size(*image.size)
            image.load()
        source.check_decoded(image)
    except (InvalidImage, MemoryError):
        raise
    except NotWhole as error:
        raise InvalidImage(f"it is not whole: {error}") from None
    except UnidentifiedImageError:
        raise InvalidImage(f"not a {' or '.join(_FORMATS)}: it begins with {data[:8]!r}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(f"far more pixels than the maximum of {MAX_PIXELS:,}") from None
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise InvalidImage(f"it can't be decoded: {str(error) or type(error).__name__}") from None
    return image


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(f"{width} x {height} pixels; the minimum side is {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise InvalidImage(f"{width} x {height} pixels; the maximum is {MAX_PIXELS:,}")


def _check_aspect(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"{width} x {height} pixels; a side may be {MAX_ASPECT} times the other, because the "
            "image is squeezed to the model's input: cut it into tiles"
        )


def _is_deep(data: bytes, image: Image.Image) -> bool:
    return image.format == "PNG" and data[_PNG_DEPTH] == b"\x10"


def _rgb(image: Image.Image, deep: bool) -> Image.Image:
    """8-bit RGB of an image; `deep` if its file has 16 bits a channel."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("L", "RGB", "LA", "RGBA"):
        raise InvalidImage(f"its colours are {image.mode}; a camera sends grey or RGB")
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
        raise InvalidImage("it is partly transparent: the colours behind it are unknown")
    rgb = image.convert("RGB")
    if deep:
        _check_depth(rgb)
    return rgb


def _check_depth(rgb: Image.Image) -> None:
    """Refuse 16-bit files whose two top bits are never set.

    Cameras have 10, 12 or 14 bits and often store them in the low bits. Which of these it is can't
    be told from a dark image, so it is not guessed.
    """
    brightest = max(high for _, high in rgb.getextrema())  # type: ignore[misc]
    if brightest < 64:
        bits = 8 + int(brightest).bit_length()
        raise InvalidImage(
            f"16 bits a channel, of which only the low {bits} are used: shift a camera's 10, 12 or "
            "14 bits to the top (value << 16 - bits), or send 8 bits; or it is underexposed"
        )


def upright(source: Image.Image, image: Image.Image) -> Image.Image:
    """`image` turned as the EXIF orientation of `source` says.

    Raises:
        InvalidImage: the EXIF block can't be read.
    """
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # as in `load`
        raise InvalidImage(f"its EXIF block can't be read: {error}") from None
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)
