"""The edge: INT8 is held to the cost, and runs go on where they stopped."""

import pytest

from services.cv_inspection import edge
from services.cv_inspection.model import read_model
from services.cv_inspection.simulator.camera import Camera
from services.skeleton.model import stamp
from tests.unit.vision_fixtures import cv_card, quiet, shown


@pytest.fixture(scope="module")
def built(vision_file):
    data = stamp(vision_file, cv_card())
    return edge.build(data, shown(32), shown(64, 9_000), shown(64, 10_000), quiet, bound=10.0)


def test_a_build_is_smaller_and_says_what_it_costs(built):
    small, made = built
    assert made.refused == ""
    assert made.int8.size_mb < 0.5 * made.fp32.size_mb
    assert 0 < made.int8.p50_ms <= made.int8.p95_ms
    assert abs(made.int8.auc - made.fp32.auc) < 0.25
    assert read_model(small).card.classes == cv_card().classes


def test_a_build_that_costs_more_is_refused(vision_file):
    data = stamp(vision_file, cv_card())
    pictures = shown(64)
    _, made = edge.build(data, pictures, pictures, pictures, quiet, bound=-2.0)
    assert made.refused.startswith("cost: ")


def test_a_run_stores_what_it_saw_and_does_nothing_twice(built, tmp_path):
    folder, store = tmp_path / "pictures", tmp_path / "store"
    for shot in (Camera(4).shot(n) for n in range(6)):
        path = folder / shot.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.jpeg())
    (folder / "broken.jpg").write_bytes(b"<html>")
    model = read_model(built[0])
    first = edge.run(model, folder, store, quiet)
    assert (first.inspected, first.waiting, len(first.bad)) == (6, 6, 1)
    # A crash cut the last line short: that picture is looked at again.
    lines = (store / "pending.jsonl").read_text()
    (store / "pending.jsonl").write_text(lines[:-200])
    second = edge.run(model, folder, store, quiet)
    assert second.inspected == 1
