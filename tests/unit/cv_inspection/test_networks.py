"""A network computes the same however many images it takes at once."""

import pytest
import torch

from services.cv_inspection.candidates.networks import Pyramid


@pytest.mark.parametrize("class_maps", [0, 2])
def test_images_some_at_a_time_give_the_same_outputs_and_gradients(class_maps):
    net = Pyramid("tf_efficientnet_lite0", class_maps).double().train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.eval()
    values = torch.randn((5, 3, 64, 64), dtype=torch.float64)
    found = []
    for net.pixels_at_once in (0, 2 * 64 * 64, 5 * 64 * 64):
        net.zero_grad()
        levels, mask, maps = net(values)
        outputs = [*levels, mask] if maps is None else [*levels, mask, maps]
        sum((level**2).mean() for level in outputs).backward()
        gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        found.append([level.detach() for level in outputs] + gradients)
    assert len(found[0]) > 100
    for some in found[1:]:
        torch.testing.assert_close(some, found[0], rtol=1e-9, atol=1e-12)
