"""The edge: the cost of INT8 is bounded, and runs are resumed."""

import re

import numpy as np
import onnx
import pytest

from services.cv_inspection.edge import device as edge
from services.cv_inspection.edge import quantisation
from services.cv_inspection.model import read_model
from services.cv_inspection.simulator.camera import Camera
from services.platform.models.onnx import write_card
from tests.unit.cv_inspection.vision_fixtures import cv_card, quiet, simulated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(vision_file):
    data = write_card(vision_file, cv_card())
    return quantisation.build(
        data,
        simulated(32),
        simulated(64, 9_000),
        simulated(64, 10_000),
        quiet,
        max_cost_increase=10.0,
    )


def test_a_build_is_smaller_and_reports_its_measurements(built):
    data, build = built
    assert build.refused == ""
    assert build.int8.size_mb < 0.5 * build.fp32.size_mb
    assert 0 < build.int8.p50_ms <= build.int8.p95_ms
    assert abs(build.int8.auc - build.fp32.auc) < 0.25
    assert read_model(data).card.classes == cv_card().classes


def test_weights_have_seven_bits_those_of_depthwise_convolutions_eight(built):
    graph = onnx.load_from_string(built[0]).graph
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    weights = [
        stored[made_by[node.input[1]].input[0]] for node in graph.node if node.op_type == "Conv"
    ]
    for is_depthwise, most in ((True, 127), (False, 64)):
        some = [weight for weight in weights if (weight.shape[1] == 1) == is_depthwise]
        assert max(np.abs(weight.astype(int)).max() for weight in some) == most


def test_probabilities_are_not_quantised(built):
    graph = onnx.load_from_string(built[0]).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    read = {
        made_by.get(name)
        for node in graph.node
        if node.op_type in ("Softmax", "Log", "Concat")
        for name in node.input
    }
    assert "DequantizeLinear" not in read


def test_a_build_that_costs_more_is_refused(vision_file):
    data = write_card(vision_file, cv_card())
    images = simulated(64)
    _, build = quantisation.build(data, images, images, images, quiet, -2.0)
    assert re.match(
        r"cost: [\d,]+ EUR against [\d,]+ EUR, [+-]\d+%; the maximum is -200%", build.refused
    )


@pytest.fixture
def folder(tmp_path):
    """Six images and an invalid file."""
    folder = tmp_path / "images"
    for shot in (Camera(4).shot(n) for n in range(6)):
        path = folder / shot.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.jpeg())
    (folder / "broken.jpg").write_bytes(b"<html>")
    return folder


def test_a_run_inspects_no_image_twice(vision_model, folder, tmp_path):
    first = edge.run(vision_model, folder, tmp_path / "store", quiet)
    assert (first.inspected, first.known, first.waiting, len(first.bad)) == (6, 0, 6, 1)
    second = edge.run(None, folder, tmp_path / "store", quiet)  # inspecting would fail
    assert (second.inspected, second.known, second.waiting) == (0, 6, 6)


def test_a_killed_run_is_resumed(vision_model, folder, tmp_path):
    class Killed(BaseException):
        """Not caught by any handler."""

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        edge.run(vision_model, folder, tmp_path / "store", kill)
    with edge.open_store(tmp_path / "store") as store:
        before = len(store.pending())
    assert 0 < before < 6
    assert edge.run(vision_model, folder, tmp_path / "store", quiet).inspected == 6 - before


def test_an_invalid_store_is_named(tmp_path):
    (tmp_path / "inspections.sqlite").write_bytes(b"no database at all, but some text" * 100)
    with pytest.raises(OSError, match=f"store in {tmp_path}"):
        edge.run(None, tmp_path, tmp_path, quiet)
