"""Whether an image file is whole: what a decoder fills in silently, and this names.

libjpeg decodes a JPEG that ends early to its full size: it repeats the last colour, or reads zeros
as texture, and Pillow passes that on. A part whose lower half is made up is inspected as usual.
Pillow does not compare a PNG's checksums either.
"""

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from PIL import Image, ImageChops

_SOI, _PNG_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# A marker that ends a scan: neither a stuffed byte nor a restart.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_ZEROS = bytes(64)
_DHT, _SOS, _EOI, _PROGRESSIVE = 0xC4, 0xDA, 0xD9, 0xC2
_FRAMES = {0xC0, 0xC1, _PROGRESSIVE}
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
# Markers without a length: restarts, the start and the end of the image, TEM.
_STANDALONE = {0x01, *range(0xD0, 0xDA)}
_COEFFICIENTS = 64
# Usual scripts have ten scans. Each takes a pass over the image, so a file of thousands is an
# attack on the decoder.
_MAX_SCANS = 64
# Of 64 KiB at most: 16 MiB of colour profiles and previews have 256.
_MAX_SEGMENTS = 1_000
# The decoder gets the last bytes of a scan only when it asks for them. A whole image needs them; 64
# bytes allow for cameras that fill the last block of their buffer.
_HELD_BACK = 64
# Bits for the decoder's look-ahead in place of the end marker. At the end marker it would fill in
# silently what is missing; without it, it asks for more data, and Pillow calls the file truncated.
_LOOK_AHEAD = b"\xff\x00" * 16
# Bits behind each scan of several: the decoder skips them where the scan is whole.
_EXTRA = bytes.fromhex("5a93c6396ca51e78") * 8
_END_OF_BLOCK = 0


class NotWhole(ValueError):
    """A file of which a part is missing or was overwritten; the message says which."""


class ImageSource(io.BytesIO):
    """A file for the decoder, and how to tell afterwards whether the decoder made up a part.

    Attributes:
        held_back: Offset of the bytes that a whole image of one scan needs last; None without.
        lengthened: A file that decodes alike if each of its scans is whole; empty without.
    """

    def __init__(self, data: bytes, held_back: int | None = None, lengthened: bytes = b"") -> None:
        super().__init__(data)
        self.held_back = held_back
        self.lengthened = lengthened
        self._reached = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, and never across `held_back`."""
        if self.held_back is not None:
            left = self.held_back - self.tell()
            if left > 0:
                size = left if size is None or size < 0 else min(size, left)
            elif size != 0:
                self._reached = True
        return super().read(size)

    def check_decoded(self, image: Image.Image) -> None:
        """Check the image that was decoded from this file.

        Raises:
            NotWhole: it was complete before the end of its data, or a scan ended too early.
        """
        if self.held_back is not None and not self._reached:
            raise NotWhole("its last row ends before its data: a part of it was overwritten")
        if self.lengthened:
            again = Image.open(io.BytesIO(self.lengthened), formats=("JPEG",))
            if ImageChops.difference(image, again).getbbox() is not None:
                raise NotWhole("a scan ends before its last row")


def open_source(data: bytes) -> ImageSource:
    """The file as the decoder gets it.

    Raises:
        NotWhole: it has the structure of a JPEG or PNG, and a part of it is missing or damaged.
    """
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data)
    elif data.startswith(_SOI):
        return _jpeg_source(data)
    return ImageSource(data)


def _check_png(data: bytes) -> None:
    """Compare each chunk's checksum, up to the last chunk."""
    view, at = memoryview(data), len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise NotWhole(f"the checksum of its chunk {kind!r} at byte {at:,} does not match")
        if kind == b"IEND":
            return
        at = end + 4
    raise NotWhole("it ends before its last chunk, IEND")


@dataclass(frozen=True)
class _Scan:
    """One scan of a JPEG.

    Attributes:
        components: Identifiers of its components.
        first: First coefficient of the band.
        last: Last coefficient of the band.
        low_bit: Lowest bit of the coefficients that it has.
        begin: Offset of its data.
        end: Offset of the marker behind its data.
    """

    components: bytes
    first: int
    last: int
    low_bit: int
    begin: int
    end: int


@dataclass
class _Jpeg:
    """The structure of a JPEG, as far as it can be followed.

    Attributes:
        frame: Marker of the frame's header, 0 without one.
        components: Identifiers of its components.
        shortest: By Huffman table for AC coefficients, the symbol of its code of zeros.
        scans: In order.
    """

    frame: int = 0
    components: bytes = b""
    shortest: dict[int, int] = field(default_factory=dict)
    scans: list[_Scan] = field(default_factory=list)


def _jpeg_source(data: bytes) -> ImageSource:
    jpeg = _parse(data)
    if jpeg.frame in _ARITHMETIC:
        raise NotWhole("it is arithmetic-coded, and whether it is whole can't be checked")
    if not jpeg.scans or jpeg.frame not in _FRAMES:
        return ImageSource(data)  # the decoder says what is wrong with it
    _check_coverage(jpeg)
    for scan in jpeg.scans:
        _check_restarts(data[scan.begin : scan.end])
        _check_zeros(data, jpeg, scan)
    first = jpeg.scans[0]
    if jpeg.frame == _PROGRESSIVE or len(jpeg.scans) > 1:
        return ImageSource(data, lengthened=_lengthened(data, jpeg.scans))
    held_back = max(first.end - _HELD_BACK, first.begin)
    return ImageSource(data[: first.end] + _LOOK_AHEAD, held_back)


def _lengthened(data: bytes, scans: list[_Scan]) -> bytes:
    """The file with extra bits behind each scan.

    The decoder reads such a file to its end before the first row, so the last bytes can't be held
    back as for a single scan. It skips bits behind a whole scan, and takes them as part of a scan
    that is too short.
    """
    ends = [0, *(scan.end for scan in scans), len(data)]
    parts = [data[begin:end] for begin, end in pairwise(ends)]
    return _EXTRA.join(parts)


def _parse(data: bytes) -> _Jpeg:
    jpeg = _Jpeg()
    for number, (marker, begin, end) in enumerate(_segments(data)):
        if number == _MAX_SEGMENTS:
            raise NotWhole(f"more than {_MAX_SEGMENTS:,} segments")
        body = data[begin:end]
        if marker in _FRAMES | _ARITHMETIC and not jpeg.frame:
            jpeg.frame, jpeg.components = marker, body[6::3]
        elif marker == _DHT:
            jpeg.shortest.update(_shortest_codes(body))
        elif marker == _SOS and body and len(body) == 4 + 2 * body[0]:
            names, (low, high, bits) = body[1:-3:2], body[-3:]
            jpeg.scans.append(_Scan(names, low, high, bits & 15, end, _scan_end(data, end)))
            if len(jpeg.scans) > _MAX_SCANS:
                raise NotWhole(f"more than {_MAX_SCANS} scans")
    return jpeg


def _scan_end(data: bytes, begin: int) -> int:
    """Offset behind a scan's data, before its marker and the bytes that fill up to it."""
    found = _MARKER.search(data, begin)
    return begin + len(data[begin : found.start() if found else None].rstrip(b"\xff"))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of the content of each segment, up to the image's end."""
    at = len(_SOI)
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            return
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return
        yield marker, at + 2, at + length
        at += length


def _check_coverage(jpeg: _Jpeg) -> None:
    """Every coefficient of every component arrives down to its lowest bit."""
    missing = {(name, number) for name in jpeg.components for number in range(_COEFFICIENTS)}
    for scan in jpeg.scans:
        if scan.low_bit == 0:
            band = range(scan.first, scan.last + 1)
            missing -= {(name, number) for name in scan.components for number in band}
    if missing:
        raise NotWhole(f"it ends after {len(jpeg.scans)} scans, and others are missing")


def _check_restarts(scan: bytes) -> None:
    """Restart markers count from 0 to 7 again and again; libjpeg fills a gap silently."""
    for number, found in enumerate(_RESTART.finditer(scan)):
        if found[1][0] & 7 != number % 8:
            raise NotWhole(f"restart marker {number} is missing")


def _check_zeros(data: bytes, jpeg: _Jpeg, scan: _Scan) -> None:
    """No block of zeros, unless it can be a flat area.

    Zeros are the first code of a Huffman table. In a flat area it is "end of block"; other symbols
    would be tens of equal coefficients in a row, which no surface has. A progressive scan of AC
    coefficients codes a flat area in a few bytes; one of DC coefficients, in zeros.
    """
    if jpeg.frame == _PROGRESSIVE:
        flat = scan.first == 0
    else:
        flat = all(symbol == _END_OF_BLOCK for symbol in jpeg.shortest.values())
    if not flat and data.find(_ZEROS, scan.begin, scan.end) >= 0:
        raise NotWhole("a block of its data is zeros: a part of it was overwritten")


def _shortest_codes(body: bytes) -> Iterator[tuple[int, int]]:
    """(table, symbol of its first code) of each AC table in a segment of Huffman tables."""
    at = 0
    while at + 17 < len(body):
        table, count = body[at], sum(body[at + 1 : at + 17])
        if table >> 4:
            yield table, body[at + 17]
        at += 17 + count
