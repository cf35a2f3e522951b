"""Model files: which are refused, and why."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.fraud.features.states import FEATURES, TABULAR
from services.platform.models.onnx import CARD_KEY, ModelRefused, write_card
from services.platform.models.tabular import TabularModel
from tests.conftest import card
from tests.unit.fraud.test_challengers import slowed

WIDTH = len(TABULAR)


def constant(value, width=WIDTH, output="score"):
    """A graph that gives every row the same score."""
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("IsNaN", ["nothing"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "nothing"], ["clean"]),
        helper.make_node("Add", ["clean", "value"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None])],
        initializer=[
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("value", TensorProto.FLOAT, [], [value]),
        ],
    )
    opset = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def load(data):
    return TabularModel(data, "fraud", FEATURES)


def test_a_valid_file_loads_and_scores():
    model = load(write_card(constant(0.25), card()))
    assert model.score(np.zeros((3, len(FEATURES)))).tolist() == [0.25] * 3


def test_a_model_may_use_fewer_features_in_another_order():
    chosen = (FEATURES[5], FEATURES[0])
    model = load(write_card(constant(0.5, width=2), card(features=chosen)))
    assert model.columns.tolist() == [5, 0]
    assert model.score(np.zeros((1, len(FEATURES)))).tolist() == [0.5]


def without_card():
    return constant(0.5)


def broken_card():
    proto = onnx.load_model_from_string(constant(0.5))
    proto.metadata_props.add(key=CARD_KEY, value='{"design": "fraud"}')
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a model"),
        (b"\x00garbage", "not a model"),
        (without_card(), "no model card"),
        (broken_card(), "unreadable model card"),
        (write_card(constant(0.5), card(design="cv_inspection")), "a model of 'cv_inspection'"),
        (
            write_card(constant(0.5), card(features=(*TABULAR[1:], "moon"))),
            "unknown features: moon",
        ),
        (write_card(constant(0.5, width=3), card()), "its card names"),
        (write_card(constant(0.5, output="other"), card()), "output 'score'"),
        (write_card(constant(1.5), card()), "outside 0..1"),
        (write_card(constant(float("nan")), card()), "outside 0..1"),
    ],
)
def test_an_invalid_file_is_refused_with_a_reason(data, reason):
    with pytest.raises(ModelRefused) as refusal:
        load(data)
    assert reason in str(refusal.value)


def test_writing_a_card_replaces_the_old_one():
    twice = write_card(write_card(constant(0.5), card(version=1)), card(version=2))
    assert load(twice).card.version == 2


def test_a_file_that_hangs_is_refused_in_seconds(onnx, monkeypatch):
    """One probe takes minutes and optimisation half a minute; loading stops and frees the core."""
    monkeypatch.setattr("services.platform.models.onnx.PROBE_TIMEOUT_S", 0.5)
    hanging = slowed(onnx, turns=3_000)
    begin = time.process_time()
    with pytest.raises(ModelRefused, match="hangs: no answer within"):
        TabularModel(hanging, "fraud", TABULAR)
    used = time.process_time()
    assert used - begin < 10
    time.sleep(0.5)
    assert time.process_time() - used < 0.4
