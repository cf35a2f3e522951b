"""Export of torch networks to ONNX."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from services.platform.models.onnx import INPUT, OUTPUT

# It warns about torchvision's operators, which are not used here.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class _Probability(nn.Module):
    """The network with a sigmoid."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *columns: Tensor) -> Tensor:
        """Features (N, F) and sets, each (N, M, K), to probabilities (N,)."""
        probability: Tensor = torch.sigmoid(self.net(*columns))
        return probability


def export_tabular(net: nn.Module, width: int, sets: Mapping[str, int]) -> bytes:
    """A network of logits as an ONNX file of scores, with any number of rows and of items in sets.

    Args:
        width: Columns of `features`.
        sets: By name, the width of a set's last axis.

    Raises:
        RuntimeError: torch exported nothing.
    """
    examples = [torch.zeros(3, width), *(torch.zeros(3, 5, k) for k in sets.values())]
    rows = torch.export.Dim("rows")
    shapes = [{0: rows}, *({0: rows, 1: torch.export.Dim(f"{name}_count")} for name in sets)]
    return export_network(_Probability(net), examples, [INPUT, *sets], [OUTPUT], (tuple(shapes),))


def export_network(
    net: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
) -> bytes:
    """A network as an ONNX file.

    Args:
        examples: One tensor for each input, to trace the network with.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        dynamic_shapes: For each argument of `forward`, by axis, the `torch.export.Dim` of an axis
            of any length; of `*arguments`, a tuple of such.

    Raises:
        RuntimeError: torch exported nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among torch's own modules
        program = torch.onnx.export(
            net.eval(),
            tuple(examples),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    data: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(data)
    return data
