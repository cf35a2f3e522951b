"""Folded batch norms compute what the network without folding does."""

import copy

import pytest
import torch

from services.cv_inspection.candidates.batch_norm_folding import (
    FoldedConvolution,
    folded_batch_norms,
)
from services.cv_inspection.candidates.networks import Pyramid

# (N, 3, H, W). TensorFlow pads even sides at the end alone, odd ones at both ends.
SHAPES = ((2, 3, 64, 64), (2, 3, 97, 64))


def encoder(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = Pyramid(name).encoder
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0.0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    net.double().train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return net


def run(net, values):
    """The outputs; the parameters get their gradients."""
    torch.manual_seed(1)  # stochastic depth
    outputs = net(values)
    sum((level**2).mean() for level in outputs).backward()
    return [level.detach() for level in outputs]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tiny_vit_5m_224"])
def test_outputs_and_gradients_are_those_of_the_network_without_folding(name, shape):
    plain = encoder(name)
    folded = copy.deepcopy(plain)
    values = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)

    want = run(plain, values)
    with folded_batch_norms(folded):
        assert any(isinstance(m, FoldedConvolution) for m in folded.modules())
        got = run(folded, values)

    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for (key, one), (same, other) in zip(
        folded.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert key == same
        assert (one.grad is None) == (other.grad is None), key
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_norms_that_learn_their_statistics_are_not_folded():
    net = encoder("tf_efficientnet_lite0").train()
    with folded_batch_norms(net):
        assert not any(isinstance(m, FoldedConvolution) for m in net.modules())


def test_a_network_is_as_before_also_after_an_error():
    net = encoder("tf_efficientnet_lite0")
    before = dict(net.named_modules())
    with pytest.raises(KeyError), folded_batch_norms(net):
        raise KeyError
    assert dict(net.named_modules()) == before
