"""Where the texts of an arrow are: beside it, on no box, line or other text."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from services.platform.diagram import BOX_HEIGHT, BOX_WIDTH, Arrow, Diagram

# Of text at 13 units.
_LETTER, _LINE, _GAP = 7.0, 15.0, 9.0
# A shorter line has no room for text beside it.
_SHORT = 40.0
_ALONG = (0.5, 0.35, 0.65, 0.2, 0.8)


class Rect(NamedTuple):
    """An upright rectangle by its edges, in units of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Rect") -> float:
        """Area of what both cover.

        >>> Rect(0, 0, 4, 4).overlap(Rect(3, 2, 9, 9)), Rect(0, 0, 1, 1).overlap(Rect(1, 0, 2, 1))
        (2, 0)
        """
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


class Line(NamedTuple):
    """One straight line of an arrow."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def across(self) -> bool:
        """Whether it is horizontal."""
        return self.y0 == self.y1

    @property
    def length(self) -> float:
        """How long it is."""
        return abs(self.x1 - self.x0) + abs(self.y1 - self.y0)

    @property
    def rect(self) -> Rect:
        """What it covers, with its width."""
        return Rect(min(self.x0, self.x1) - 2, min(self.y0, self.y1) - 2,
                    max(self.x0, self.x1) + 2, max(self.y0, self.y1) + 2)  # fmt: skip


class Label(NamedTuple):
    """Where an arrow's texts are, of which there are one or two.

    Attributes:
        x: Of both, where `anchor` says.
        y: Baseline of the first.
        second_y: Baseline of the second.
        anchor: start, middle or end.
    """

    x: float
    y: float
    second_y: float
    anchor: str

    def rects(self, texts: Sequence[str]) -> list[Rect]:
        """What the texts cover."""
        return [self._rect(y, _LETTER * len(t)) for y, t in zip(self[1:3], texts, strict=False)]

    def _rect(self, baseline: float, width: float) -> Rect:
        left = self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * width
        return Rect(left, baseline - 11, left + width, baseline + 3)


def live_texts(diagram: Diagram) -> list[tuple[str, ...]]:
    """The longest texts of each arrow in the page: its rate, and what waits."""
    return [
        ("12,345/s", "1,234 waiting")[: 2 if arrow.waits else 1] if arrow.rate else ()
        for arrow in diagram.arrows
    ]


def obstacles(diagram: Diagram) -> list[Rect]:
    """What boxes and arrows cover."""
    boxes = [Rect(b.x, b.y, b.x + BOX_WIDTH, b.y + BOX_HEIGHT) for b in diagram.boxes]
    return boxes + [line.rect for arrow in diagram.arrows for line in lines(arrow.path)]


def lines(path: str) -> list[Line]:
    """The straight lines of a path.

    >>> lines("M0 5 H20 V9")
    [Line(x0=0.0, y0=5.0, x1=20.0, y1=5.0), Line(x0=20.0, y0=5.0, x1=20.0, y1=9.0)]
    """
    points: list[tuple[float, float]] = []
    for kind, numbers in re.findall(r"([MHV])([\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        if kind == "M":
            points.append((values[0], values[1]))
        else:
            x, y = points[-1]
            points.append((values[0], y) if kind == "H" else (x, values[0]))
    return [Line(*a, *b) for a, b in pairwise(points)]


def label_places(diagram: Diagram, texts: Sequence[Sequence[str]]) -> list[Label]:
    """A place for each arrow's texts: the first with least overlap.

    The last line is tried first: where several arrows begin together, it belongs to one.

    Args:
        texts: At most two an arrow, in the order of the arrows.
    """
    taken = obstacles(diagram)
    found = []
    for arrow, its in zip(diagram.arrows, texts, strict=True):
        best = _best(arrow, its, taken)
        found.append(best)
        taken += best.rects(its)
    return found


def _best(arrow: Arrow, texts: Sequence[str], taken: Sequence[Rect]) -> Label:
    def covered(place: Label) -> float:
        return sum(rect.overlap(other) for rect in place.rects(texts) for other in taken)

    return min(_places(arrow, len(texts)), key=covered)


def _places(arrow: Arrow, count: int) -> Iterator[Label]:
    *others, last = lines(arrow.path)
    others.sort(key=lambda line: -line.length)
    for line in [last, *others] if last.length >= _SHORT else [*others, last]:
        for share in _ALONG:
            x = line.x0 + share * (line.x1 - line.x0)
            y = line.y0 + share * (line.y1 - line.y0)
            if line.across:
                yield Label(x, y - 8, y + 18, "middle")
                continue
            first = y - 3 if count == 2 else y + 4
            yield Label(x + _GAP, first, first + _LINE, "start")
            yield Label(x - _GAP, first, first + _LINE, "end")
