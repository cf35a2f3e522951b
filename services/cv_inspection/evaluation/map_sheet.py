"""Contact sheets of inspected images: each with its maps, by one colour scale, and the legend."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from services.platform.colour_scale import Levels, colour_bar, laid_over

Colour = tuple[int, int, int]
GREY: Colour = (200, 200, 200)
_GROUND: Colour = (24, 24, 28)
_GAP, _CAPTION, _LINE, _BAR = 8, 34, 15, (256, 12)


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        image: The photograph.
        maps: Levels of its maps, in the order of the legend; None where one is not known.
        lines: Text below it, two lines at most.
        colour: Of the text and the frame.
        outline: Where an annotator saw the defect; None: not shown.
    """

    image: Image.Image
    maps: tuple[Levels | None, ...]
    lines: tuple[str, ...]
    colour: Colour = GREY
    outline: Image.Image | None = None


def draw_tiles(tiles: list[Tile], legend: tuple[str, ...], side: int, path: Path) -> Path:
    """Draw tiles, a picture for each map, and the legend below them.

    Args:
        legend: For each map, what its colours mean, with the numbers of threshold and end.
        side: Of a picture, pixels.
    """
    across = 6 // len(legend)
    width = len(legend) * (side + _GAP)
    rows = max(-(-len(tiles) // across), 1)
    top = rows * (side + _CAPTION + _GAP) + _GAP
    size = across * width + _GAP, top + _BAR[1] + (1 + len(legend)) * _LINE + 2 * _GAP
    sheet = Image.new("RGB", size, _GROUND)
    for number, tile in enumerate(tiles):
        x = _GAP + number % across * width
        y = _GAP + number // across * (side + _CAPTION + _GAP)
        _draw_tile(sheet, tile, x, y, side)
    _draw_legend(sheet, legend, top)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _draw_tile(sheet: Image.Image, tile: Tile, x: int, y: int, side: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, levels in enumerate(tile.maps):
        left = x + number * (side + _GAP)
        if levels is None:
            draw.text((left + 4, y + 4), "not known", fill=GREY, font_size=11)
            continue
        picture = laid_over(tile.image, levels, (side, side))
        if tile.outline is not None:
            _draw_outline(picture, tile.outline)
        sheet.paste(picture, (left, y))
        box = (left - 2, y - 2, left + side + 1, y + side + 1)
        draw.rectangle(box, outline=tile.colour, width=2)
    for line, text in enumerate(tile.lines):
        draw.text((x, y + side + 3 + line * _LINE), text, fill=tile.colour, font_size=12)


def _draw_outline(picture: Image.Image, mask: Image.Image) -> None:
    """Dash the border of a mask in black and white, which no colour of the scale is."""
    inside = mask.resize(picture.size).point(lambda v: 255 if v > 127 else 0).load()
    pixels = picture.load()
    assert inside is not None
    assert pixels is not None
    for y in range(1, picture.height - 1):
        for x in range(1, picture.width - 1):
            beside = (inside[x - 1, y], inside[x + 1, y], inside[x, y - 1], inside[x, y + 1])
            if inside[x, y] and 0 in beside:
                pixels[x, y] = (0, 0, 0) if (x + y) // 3 % 2 else (255, 255, 255)


def _draw_legend(sheet: Image.Image, legend: tuple[str, ...], top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    sheet.paste(colour_bar(*_BAR), (_GAP, top))
    names = ("0", "threshold", "2 x threshold")
    y = top + _BAR[1] + 2
    for at, name, anchor in zip((0, _BAR[0] // 2, _BAR[0]), names, ("la", "ma", "ra"), strict=True):
        draw.text((_GAP + at, y), name, fill=GREY, font_size=11, anchor=anchor)
    for line, text in enumerate(legend, start=1):
        draw.text((_GAP, y + line * _LINE), text, fill=GREY, font_size=12)
