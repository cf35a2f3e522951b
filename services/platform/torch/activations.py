"""Activations of networks that libraries build."""

from torch import nn


def make_out_of_place(net: nn.Module) -> None:
    """Have activations leave their input as it is; the values are the same.

    ReLU6 in place copies its input for the backward pass: 8 % of EfficientNet-Lite0's training step
    (.47 and .43 s, 2026-11-29). The export decomposes it with the number of rows as a symbol: a
    quarter of its processor time (30 and 23 s, 2026-11-28).
    """
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
