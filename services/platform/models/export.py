"""Adapts a converter's graph, (label, probabilities), to a candidate's output, one score."""

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from services.platform.models.onnx import INPUT, OUTPUT

_IR_VERSION = 8


def positive_only(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> bytes:
    """A candidate's ONNX file of a converter's graph: the probability of the positive class.

    Args:
        graph: One input (N, F); outputs (label, probabilities (N, 2)).
        opsets: Versions of the operator sets it uses, by domain.
    """
    probabilities = graph.output[1].name
    second = helper.make_tensor("second", TensorProto.INT64, [], [1])
    enter = helper.make_node("Identity", [INPUT], [graph.input[0].name])
    take = helper.make_node("Gather", [probabilities, "second"], [OUTPUT], axis=1)
    renamed = graph.input[0].name != INPUT
    width = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    made = helper.make_graph(
        [*([enter] if renamed else []), *graph.node, take],
        "candidate",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
        initializer=[*graph.initializer, second],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(made, opset_imports=imports, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
