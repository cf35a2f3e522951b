"""Losses against their definitions in numpy, and defects that are pasted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.cv_inspection.candidates.augmentation import Batch
from services.cv_inspection.candidates.losses import (
    InspectionLoss,
    LossWeights,
    class_map_loss,
    dice,
    lovasz_hinge,
    patch_loss,
    pooled_dice,
)
from services.cv_inspection.candidates.networks import InspectionNetwork, Logits, Pyramid
from services.cv_inspection.candidates.pasting import Pasting, paste
from services.cv_inspection.features.labelled_images import LabelledImages

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def masks(count=3, side=8, share=0.3):
    return RNG.random((count, side, side)) < share


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float32))


def labelled(masks, label, value=100):
    count, height, width = masks.shape
    return LabelledImages.from_arrays(
        np.full((count, height, width, 3), value, np.uint8),
        np.asarray(label),
        masks,
        np.arange(count),
        np.zeros((count, 4)),
        6_000,
    )


def test_dice_of_images_and_of_classes_is_its_definition():
    p, mask, label = RNG.random((3, 8, 8)), masks(), np.array([2, 5, 2])
    both, sums = (p * mask).sum((1, 2)), (p + mask).sum((1, 2))
    assert np.allclose(dice(tensor(p), tensor(mask)), 1 - (2 * both + 1) / (sums + 1), atol=1e-5)
    kinds = [
        1 - (2 * both[rows].sum() + 1) / (sums[rows].sum() + 1) for rows in (label == 2, label == 5)
    ]
    pooled = pooled_dice(tensor(p), tensor(mask), torch.from_numpy(label))
    assert float(pooled) == pytest.approx(np.mean(kinds), abs=1e-5)


def test_lovasz_hinge_is_twice_the_jaccard_loss_at_whole_errors():
    """The extension equals the set function on its vertices (Berman et al., 2018, section 2.2).

    A logit of +1 or -1 has a hinge error of 0 where it is right and 2 where it is wrong.
    """
    mask, predicted = masks(4), masks(4, share=0.5)
    iou = (mask & predicted).sum((1, 2)) / (mask | predicted).sum((1, 2))
    found = lovasz_hinge(tensor(2.0 * predicted - 1), tensor(mask))
    assert float(found) == pytest.approx(2 * (1 - iou).mean(), abs=1e-5)


def test_lovasz_hinge_is_the_sum_over_sorted_errors():
    logits, mask = RNG.normal(size=(1, 4, 4)), masks(1, 4, 0.4)
    error = 1 - logits.ravel() * (2 * mask.ravel() - 1)
    order = np.argsort(-error)
    expected, before = 0.0, 0.0
    for count in range(1, 17):
        wrong = order[:count]
        missed = np.isin(np.arange(16), wrong) & mask.ravel()
        added = np.isin(np.arange(16), wrong) & ~mask.ravel()
        jaccard = 1 - (mask.sum() - missed.sum()) / (mask.sum() + added.sum())
        expected += max(error[order[count - 1]], 0) * (jaccard - before)
        before = jaccard
    assert float(lovasz_hinge(tensor(logits), tensor(mask))) == pytest.approx(expected, abs=1e-5)


def test_lovasz_hinge_of_a_sure_and_right_network_is_nothing():
    mask = masks(2, share=0.5)
    logits = tensor(6.0 * mask - 3).requires_grad_()
    loss = lovasz_hinge(logits, tensor(mask))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()


def test_a_class_map_is_of_its_class():
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 8:20, 8:20] = True
    right = np.full((1, 3, 8, 8), -20.0)
    right[0, 1, 2:5, 2:5] = 20
    wrong = right[:, ::-1].copy()
    wrong[0, [0, 1]] = wrong[0, [1, 0]]
    label = torch.tensor([2])
    of_right, of_wrong = (
        float(class_map_loss(tensor(maps), label, tensor(mask))) for maps in (right, wrong)
    )
    assert of_right < 0.01
    assert of_wrong > 1.0


def test_the_patch_loss_is_the_cross_entropy_of_the_highest_patch():
    logits = RNG.normal(size=(2, 1, 16, 16))
    p = 1 / (1 + np.exp(-logits[:, 0]))
    windows = np.lib.stride_tricks.sliding_window_view(p, (5, 5), axis=(1, 2))[:, ::2, ::2]
    top = windows.mean(axis=(3, 4)).max(axis=(1, 2))
    expected = -(np.log(top[0]) + np.log(1 - top[1])) / 2
    found = patch_loss(tensor(logits), torch.tensor([True, False]))
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_added_losses_count_by_their_weights_and_masks_only_where_they_are_known():
    mask = masks(4, 16)
    mask[0] = False
    images = labelled(mask, [0, 1, 2, 2])
    label, outline = torch.from_numpy(images.label), tensor(images.mask)
    known = torch.from_numpy(images.has_mask)
    logits = Logits(
        tensor(RNG.normal(size=(4, 3))),
        tensor(RNG.normal(size=(4, 1, 16, 16))),
        tensor(RNG.normal(size=(4, 2, 4, 4))),
    )

    def loss(known=known, logits=logits, **weights):
        weighted = InspectionLoss(images, 3, 0.0, LossWeights(**weights), CPU)
        return float(weighted(logits, label, outline, known))

    plain = loss()
    drawn, defects = logits.mask[1:, 0], outline[1:]
    added = {
        "pooled_dice": pooled_dice(torch.sigmoid(drawn), defects, label[1:]),
        "lovasz": lovasz_hinge(drawn, defects),
        "class_map": class_map_loss(logits.class_maps, label, outline),
        "patch": patch_loss(logits.mask, label > 0),
    }
    for name, value in added.items():
        assert loss(**{name: 0.5}) == pytest.approx(plain + 0.5 * float(value), abs=1e-4), name
    # An unknown outline changes nothing, whatever the mask says there.
    unknown = torch.tensor([True, True, True, False])
    other = logits._replace(mask=logits.mask.clone())
    other.mask[3] = 9.0
    assert loss(unknown, lovasz=0.5) == pytest.approx(loss(unknown, other, lovasz=0.5), abs=1e-6)


@pytest.fixture
def donors():
    """Two parts of brightness 200, with a dark pit; and one that is all defect."""
    mask = np.zeros((3, 64, 64), bool)
    mask[:2, 28:34, 28:34] = True
    mask[2] = True
    images = labelled(mask, [2, 2, 1], 200)
    images.vectors[images.mask] = 40
    return images


def batch_of(label, value):
    count = len(label)
    return Batch(
        torch.full((count, 3, 64, 64), float(value)),
        torch.zeros(count, 64, 64),
        torch.tensor(label),
    )


def test_defects_are_pasted_into_good_parts_alone(donors):
    batch = batch_of([0, 3, 0, 0], 100)
    pasted = Pasting(donors, share=1.0)(batch, np.random.default_rng(0))
    # Never the defect that covers the whole part.
    assert pasted.label.tolist() == [2, 3, 2, 2]
    assert torch.equal(pasted.pixels[1], batch.pixels[1])
    shown = pasted.mask.flatten(1).any(dim=1).tolist()
    assert shown == [True, False, True, True]
    # The batch that came is as it was, and a share of 0 changes nothing.
    assert batch.label.tolist() == [0, 3, 0, 0]
    assert Pasting(donors, share=0.0)(batch, np.random.default_rng(0)).label.tolist() == [
        0,
        3,
        0,
        0,
    ]
    none = replace(donors, mask=np.zeros_like(donors.mask))
    assert Pasting(none, share=1.0)(batch, np.random.default_rng(0)) is batch


def test_defects_are_pasted_at_the_size_of_the_batch(donors):
    small = Batch(torch.full((4, 3, 32, 32), 100.0), torch.zeros(4, 32, 32), torch.zeros(4).long())
    pasted = Pasting(donors, share=1.0)(small, np.random.default_rng(0))
    assert pasted.pixels.shape == small.pixels.shape
    # 36 of 64 x 64 pixels, half as wide and high, scaled by .85 to 1.1.
    areas = pasted.mask.sum(dim=(1, 2))
    assert 5 <= float(areas.max()) <= 16


def test_a_pasted_defect_has_the_brightness_of_its_new_part(donors):
    source = Batch(
        tensor(donors.vectors[:1]).permute(0, 3, 1, 2), tensor(donors.mask[:1]), torch.tensor([2])
    )
    good = batch_of([0], 100).pixels
    pixels = paste(good, source)[0, 0]
    # 40 of 200 is 20 of 100; away from the defect nothing changes, and its edge fades.
    assert float(pixels[31, 31]) == pytest.approx(40 * 104 / 204, abs=1.0)
    assert torch.equal(pixels[:20], good[0, 0, :20])
    assert 21 < float(pixels[31, 27]) <= 104


def test_normalised_by_image_a_network_sees_no_exposure():
    torch.manual_seed(0)
    name = "tf_efficientnet_lite0"
    net = InspectionNetwork(Pyramid(name, 2), name, 3, by_image=True).eval()
    pixels = torch.from_numpy(RNG.integers(60, 160, (2, 64, 64, 3))).float()
    with torch.no_grad():
        one, brighter = net(pixels), net(pixels + 50)
    assert one.class_maps is not None
    assert one.class_maps.shape == (2, 2, 16, 16)
    assert one.mask.shape == (2, 1, 64, 64)
    assert torch.allclose(one.kind, brighter.kind, atol=1e-3)
