"""docs/walkthrough.md: each click of the two scripts is there with these words."""

import re
from pathlib import Path

import pytest

from services.designs import DESIGNS
from services.walkthrough.recording import STATIC

TEXT = (Path(__file__).parents[3] / "docs" / "walkthrough.md").read_text()
_ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
_TAB = re.compile(r'\["[a-z]+", "([A-Z][a-z ]+)"\]')
_BUTTON = re.compile(r'"([A-Z][A-Za-z0-9 ]+)"')
FILES = ("app.js", "jobs.js", "models.js", "views.js")
MINUTES = 15
SCRIPTS = [rows for part in TEXT.split("\n## ")[1:] if (rows := _ROW.findall(part))]


def words(design):
    """What can be clicked in a design's views."""
    scripts = {file: (STATIC / file).read_text() for file in FILES}
    extras = design.walkthrough()
    return {
        *(one.title for one in DESIGNS),
        *_TAB.findall(scripts["app.js"]),
        *_BUTTON.findall("".join(scripts.values())),
        *(box.label for box in extras.diagram.boxes),
        *(slider.label for slider in extras.money().sliders),
        *design.drifts,
        f"Send one {extras.event}",
    }


@pytest.mark.parametrize(("design", "script"), list(zip(DESIGNS, SCRIPTS, strict=True)), ids=str)
def test_each_click_exists_and_minutes_rise(design, script):
    minutes = [int(minute) for minute, _ in script]
    assert minutes == sorted(minutes)
    assert minutes[0] == 0
    assert 10 < minutes[-1] < MINUTES
    clicks = {click.strip() for _, row in script for click in row.split("→")}
    assert clicks - words(design) == set()
