"""The texts of arrows overlap nothing, in the page and in the pictures of the docs."""

import pytest

from docs.draw_diagram import wrapped
from services.designs import DESIGNS
from services.platform.diagram import WIDTH, Arrow, Box, Diagram, Measure
from services.walkthrough.board import diagram_of
from services.walkthrough.labels import label_places, live_texts, obstacles

LIVE = [(design, live_texts(diagram_of(design))) for design in DESIGNS]
DRAWN = [(design, [wrapped(a.label) for a in diagram_of(design).arrows]) for design in DESIGNS]


@pytest.mark.parametrize(("design", "texts"), [*LIVE, *DRAWN], ids=lambda x: str(x)[:20])
def test_texts_cover_no_box_no_line_and_no_other_text(design, texts):
    diagram = diagram_of(design)
    taken = obstacles(diagram)
    for arrow, place, its in zip(diagram.arrows, label_places(diagram, texts), texts, strict=True):
        for rect in place.rects(its):
            assert not sum(map(rect.overlap, taken)), (arrow.source, arrow.target)
            assert rect.left >= 0
            assert rect.right <= WIDTH
        taken += place.rects(its)


def test_a_text_beside_a_box_goes_to_the_other_side():
    rate = Measure("payments", "scorer", "requests_total")
    boxes = (Box("a", "A", "serving", 300, 100),)
    near = Arrow("a", "a", "M290 90 V200", "payments", rate)
    [place] = label_places(Diagram(boxes, (near,)), [("12,345/s",)])
    assert place.anchor == "end"
    assert place.x < 290
