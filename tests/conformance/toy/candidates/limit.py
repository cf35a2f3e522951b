"""The score is a logistic function of the weight around a limit."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

from services.platform.models.candidates import Candidate
from services.platform.models.onnx import INPUT, OUTPUT
from tests.conformance.toy.candidates import CANDIDATES


@CANDIDATES.register
class Limit(Candidate):
    """Stops what is heavier than a limit."""

    name = "limit"
    role = "the only one"

    def fit(self, train, validation, seed, step):
        self.parameters["limit"] = float(train.vectors[train.positive].min())
        step(1, 1)

    def score(self, examples):
        return 1 / (1 + np.exp(-(examples.vectors[:, 0] - self.parameters["limit"])))

    def export(self):
        nodes = [
            helper.make_node("Sub", [INPUT, "limit"], ["over"]),
            helper.make_node("Sigmoid", ["over"], ["share"]),
            helper.make_node("Reshape", ["share", "flat"], [OUTPUT]),
        ]
        graph = helper.make_graph(
            nodes,
            "limit",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 1])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
            [
                helper.make_tensor("limit", TensorProto.FLOAT, [1], [self.parameters["limit"]]),
                helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
            ],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(made)
        return made.SerializeToString()

    def save(self, folder):
        (folder / "limit.json").write_text(json.dumps(self.parameters))

    def load(self, folder):
        self.parameters = json.loads((folder / "limit.json").read_text())

    def fit_more(self, train, seed, step):
        self.fit(train, train, seed, step)
