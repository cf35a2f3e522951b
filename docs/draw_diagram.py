"""Writes `docs/images/<design>.svg` from the diagrams of the walkthrough: `make architecture`.

A test holds the files to what this module returns, and another the diagrams to the processes, so
the pictures cannot become stale.
"""

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from services.designs import DESIGNS
from services.platform.design import Design
from services.platform.diagram import BOX_HEIGHT, BOX_WIDTH, WIDTH, Box
from services.walkthrough.board import diagram_of
from services.walkthrough.labels import Label, label_places, obstacles

FOLDER = Path(__file__).parent / "images"
_MARGIN = 24
# Letters that fit between two boxes.
_WRAP = 14
_STYLE = """
  svg { --ink: #1c2328; --soft: #566069; --card: #ffffff; --line: #b9bfbd; --arrow: #7d878d;
    --ground: #f6f6f3; --accent: #17627c; font: 13px system-ui, "Noto Sans", sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e4e8ea; --soft: #a3adb4; --card: #1b2126; --line: #454f57; --arrow: #7b8790;
      --ground: #13171a; --accent: #6fc3de; } }
  .ground { fill: var(--ground); }
  .box { fill: var(--card); stroke: var(--line); }
  .outside { stroke-dasharray: 5 4; }
  .name { fill: var(--ink); font-weight: 650; font-size: 14px; }
  text { fill: var(--soft); }
  .step { fill: var(--accent); }
  .arrow { fill: none; stroke: var(--arrow); stroke-width: 1.6; }
  .moves { paint-order: stroke; stroke: var(--ground); stroke-width: 4px; }
  #head path { fill: var(--arrow); }
"""


def files() -> dict[Path, str]:
    """The pictures by file."""
    return {FOLDER / f"{design.name}.svg": picture(design) for design in DESIGNS}


def picture(design: Design) -> str:
    """A design's diagram as SVG, in the colours that the reader prefers."""
    diagram = diagram_of(design)
    texts = [wrapped(arrow.label) for arrow in diagram.arrows]
    places = label_places(diagram, texts)
    height = round(max(rect.bottom for rect in obstacles(diagram))) + _MARGIN
    titles = _titles(design)
    boxes = [part for box in diagram.boxes for part in _box(box, titles[box.step])]
    arrows = [f'<path class="arrow" d="{a.path}" marker-end="url(#head)"/>' for a in diagram.arrows]
    labels = [line for place, its in zip(places, texts, strict=True) for line in _label(place, its)]
    title = escape(design.title)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{title}: boxes and what moves between them">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>',
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="12"/>',
        *arrows, *boxes, *labels, "</svg>\n",
    ])  # fmt: skip


def wrapped(text: str) -> tuple[str, ...]:
    """A label of an arrow as one text or two."""
    return (text,) if len(text) < _WRAP else tuple(text.rsplit(" ", 1))


def _titles(design: Design) -> dict[str, str]:
    """Number and title of each step, by the name that boxes have for it."""
    names = ((step.file.rstrip("/").removesuffix(".py"), step) for step in design.steps({}))
    return {path.rpartition("/")[2]: f"{step.number} {step.title}" for path, step in names}


def _box(box: Box, step: str) -> Iterable[str]:
    kind = "box" if box.process else "box outside"
    yield (f'<rect class="{kind}" x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" '
           f'height="{BOX_HEIGHT}" rx="10"/>')  # fmt: skip
    lines = [("name", box.label), ("process", box.process), ("step", step)]
    for row, (name, text) in enumerate((name, text) for name, text in lines if text):
        y = box.y + 32 + 22 * row
        yield f'<text class="{name}" x="{box.x + 12}" y="{y}">{escape(text)}</text>'


def _label(place: Label, texts: Iterable[str]) -> Iterable[str]:
    for y, text in zip((place.y, place.second_y), texts, strict=False):
        yield (f'<text class="moves" x="{place.x:g}" y="{y:g}" text-anchor="{place.anchor}">'
               f"{escape(text)}</text>")  # fmt: skip


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for file, text in files().items():
        file.write_text(text)


if __name__ == "__main__":
    main()
