"""The edge: INT8 is held to the cost, and runs go on where they stopped."""

import pytest

from services.cv_inspection.edge import device as edge
from services.cv_inspection.edge import quantisation
from services.cv_inspection.serving.model import read_model
from services.cv_inspection.simulator.camera import Camera
from services.platform.models.onnx import stamp
from tests.unit.cv_inspection.vision_fixtures import cv_card, quiet, shown


@pytest.fixture(scope="module")
def built(vision_file):
    data = stamp(vision_file, cv_card())
    return quantisation.build(
        data, shown(32), shown(64, 9_000), shown(64, 10_000), quiet, bound=10.0
    )


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
    _, made = quantisation.build(data, pictures, pictures, pictures, quiet, bound=-2.0)
    assert made.refused.startswith("cost: ")


@pytest.fixture
def folder(tmp_path):
    """Six pictures, and a file that is none."""
    found = tmp_path / "pictures"
    for shot in (Camera(4).shot(n) for n in range(6)):
        path = found / shot.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.jpeg())
    (found / "broken.jpg").write_bytes(b"<html>")
    return found


def test_a_run_keeps_what_it_saw_and_looks_at_nothing_twice(vision_model, folder, tmp_path):
    first = edge.run(vision_model, folder, tmp_path / "store", quiet)
    assert (first.inspected, first.known, first.waiting, len(first.bad)) == (6, 0, 6, 1)
    second = edge.run(None, folder, tmp_path / "store", quiet)  # a look would need a model
    assert (second.inspected, second.known, second.waiting) == (0, 6, 6)


def test_a_run_that_is_killed_goes_on_where_it_was(vision_model, folder, tmp_path):
    class Killed(BaseException):
        """As nothing catches it."""

    def kill(done: int, of: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        edge.run(vision_model, folder, tmp_path / "store", kill)
    with edge.open_store(tmp_path / "store") as kept:
        before = len(kept.waiting())
    assert 0 < before < 6
    assert edge.run(vision_model, folder, tmp_path / "store", quiet).inspected == 6 - before


def test_a_store_that_is_no_store_is_named(tmp_path):
    (tmp_path / "inspections.sqlite").write_bytes(b"no database at all, but some text" * 100)
    with pytest.raises(OSError, match=f"store in {tmp_path}"):
        edge.run(None, tmp_path, tmp_path, quiet)
