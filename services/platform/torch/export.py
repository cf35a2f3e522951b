"""Export of a torch network to ONNX."""

import logging
import warnings
from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from services.platform.models.onnx import INPUT, OUTPUT

# It warns about torchvision's operators, which are not used here.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class _Probability(nn.Module):
    """The network with a sigmoid: logits (N,) -> probabilities (N,)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *columns: Tensor) -> Tensor:
        probability: Tensor = torch.sigmoid(self.net(*columns))
        return probability


def export_network(net: nn.Module, width: int, sets: Mapping[str, int]) -> bytes:
    """The network as an ONNX file, with dynamic numbers of rows and of items in the sets.

    Args:
        width: Columns of `features`.
        sets: By name, the width of a set's last axis.

    Raises:
        RuntimeError: torch exported nothing.
    """
    examples = [torch.zeros(3, width), *(torch.zeros(3, 5, k) for k in sets.values())]
    rows = torch.export.Dim("rows")
    shapes = [{0: rows}, *({0: rows, 1: torch.export.Dim(f"{name}_count")} for name in sets)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among torch's own modules
        program = torch.onnx.export(
            _Probability(net).eval(),
            tuple(examples),
            input_names=[INPUT, *sets],
            output_names=[OUTPUT],
            dynamic_shapes=(tuple(shapes),),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    data: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(data)
    return data
