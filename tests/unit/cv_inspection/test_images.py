"""Images as users bring them: broken off, turned, deep, long; each is right or named."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.cv_inspection.ingestion.images import MAX_ASPECT, InvalidImage, decode
from services.cv_inspection.simulator.camera import SIZE, Camera
from tests.conftest import DATA
from tests.unit.cv_inspection.image_files import (
    ENCODINGS,
    cut_and_closed,
    encoded,
    jpeg,
    part,
    zeroed,
)

TILES = DATA / "magnetic_tile"
COLOURS = [True, False]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_whole_image_is_decoded(name, colour):
    for pixels in (part(), np.zeros((64, 96), np.uint8), np.full((300, 64), 255, np.uint8)):
        data = jpeg(pixels, colour, **ENCODINGS[name])
        assert decode(data).size == pixels.shape[::-1]
        # Cameras append previews and padding behind the image, and some forget its end marker.
        assert decode(data + b"\0" * 5_000).size == pixels.shape[::-1]
        assert decode(data[:-2] + b"\xff" * 3 + data[-2:]).size == pixels.shape[::-1]


def test_a_half_flat_image_is_decoded():
    """Its flat half is a block of zeros in the file."""
    pixels = np.zeros((1024, 1024), np.uint8)
    pixels[:512] = np.tile(part(256), (2, 4))
    for colour in COLOURS:
        for options in ({"optimize": True}, {"progressive": True}, {"quality": 30}):
            assert decode(jpeg(pixels, colour, **options)).size == (1024, 1024)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_broken_off_jpeg_is_named(name, colour):
    data = jpeg(part(), colour, **ENCODINGS[name])
    for share in (0.3, 0.5, 0.7, 0.9, 0.97):
        for broken in (cut_and_closed(data, share), zeroed(data, share)):
            with pytest.raises(InvalidImage, match=r"not whole|can't be decoded"):
                decode(broken)


def test_a_hole_in_a_jpeg_is_named():
    data = jpeg(part(512))
    for begin in range(4_000, len(data) - 4_096, 9_000):
        with pytest.raises(InvalidImage):
            decode(data[:begin] + bytes(4_096) + data[begin + 4_096 :])


@pytest.mark.skipif(not TILES.exists(), reason=f"no images at {TILES}")
def test_no_real_tile_is_refused():
    sizes = [decode(path.read_bytes()).size for path in TILES.glob("MT_*/Imgs/*.jpg")]
    assert len(sizes) > 1_000
    assert min(min(size) for size in sizes) > 100


def test_no_simulated_image_is_refused():
    camera = Camera(21)
    for number in range(60):
        assert decode(camera.shot(number).jpeg()).size == (SIZE, SIZE)


def chunks(data):
    """(kind, content) of each chunk of a PNG."""
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def number(value):
    return struct.pack(">I", value)


def png(parts):
    """A PNG of chunks, with right checksums."""
    body = b"".join(
        b"".join((number(len(content)), kind, content, number(zlib.crc32(kind + content))))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_damaged_png_is_named():
    data = encoded(part())
    assert decode(png(chunks(data))).size == (256, 256)
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    short = png((k, c[: len(c) // 2] if k == b"IDAT" else c) for k, c in chunks(data))
    for broken in (flipped, data[:middle], data[:-12], short):
        with pytest.raises(InvalidImage):
            decode(broken)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation, kind):
    shown = np.zeros((64, 96), np.uint8)
    shown[:20, :40] = 200
    # How a camera stores what is shown so (CIPA DC-008): the inverse of the turn.
    stored = {
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1],
        5: shown.T, 6: np.rot90(shown), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(np.ascontiguousarray(stored), kind, exif=exif.tobytes()))
    assert image.size == (96, 64)
    assert np.abs(np.asarray(image)[..., 0].astype(int) - shown).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_none(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(jpeg(part(64)[:, :48].copy(), exif=exif.tobytes())).size == (48, 64)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_low_bits_of_sixteen_are_named(bits):
    low = part(64).astype(np.uint16) << (bits - 8)
    with pytest.raises(InvalidImage, match=f"16 bits a channel, of which only the low {bits}"):
        decode(encoded(low))
    high = decode(encoded(low << (16 - bits)))
    assert np.array_equal(np.asarray(high)[..., 0], part(64))


def deep_rgb(pixels):
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    rows = np.repeat(pixels[..., None], 3, axis=2).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *pixels.shape[::-1], 16, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def test_low_bits_of_sixteen_bit_colours_are_named():
    deep = part(64).astype(np.uint16) << 4
    with pytest.raises(InvalidImage, match="only the low 12"):
        decode(deep_rgb(deep))
    assert np.array_equal(np.asarray(decode(deep_rgb(deep << 4)))[..., 1], part(64))


def test_a_strip_is_refused_with_the_rule():
    strip = np.tile(part(32), (1, 40))
    assert decode(encoded(strip[:, : 32 * MAX_ASPECT])).size == (32 * MAX_ASPECT, 32)
    for long in (strip, strip.T.copy()):
        with pytest.raises(InvalidImage, match=f"a side may be {MAX_ASPECT} times the other"):
            decode(encoded(long))


FILES = [
    *(jpeg(part(64), colour, **options) for options in ENCODINGS.values() for colour in COLOURS),
    encoded(part(64)),
    encoded(part(64).astype(np.uint16) << 8),
    encoded(Image.fromarray(part(64)), exif=Image.Exif().tobytes()),
    deep_rgb(part(64).astype(np.uint16) << 8),
]  # fmt: skip


@st.composite
def damaged(draw):
    """A file with a few bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
    return bytes(data)


@settings(max_examples=400)
@example(b"\xff\xd8" + b"\xff\xda\x00\x02" * 5_000)
@example(b"\x89PNG\r\n\x1a\n" + bytes(12) * 10)
@given(st.one_of(st.binary(max_size=300), damaged()))
def test_any_bytes_are_an_image_or_a_named_error(data):
    with suppress(InvalidImage):
        assert decode(data).mode == "RGB"


def test_an_image_for_which_there_is_no_memory_is_not_called_invalid(monkeypatch):
    def load(_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    with pytest.raises(MemoryError):
        decode(Camera(1).shot(1).jpeg())
