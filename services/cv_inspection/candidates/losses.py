"""The training losses of the heads.

Each function returns a scalar, the mean over what it is of. Masks are (N, H, W) float32, 1 where
the defect is; logits have the masks' shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.candidates.networks import Logits, patch_score
from services.cv_inspection.features.labelled_images import LabelledImages

# Weight of a defect's pixel in BCE, beside the 1 of the others: defects cover few pixels.
_PIXEL_WEIGHT = 5.0
# Weight of BCE in the loss of class maps, beside the 1 of Dice.
_CLASS_MAP_BCE = 3.0
# A cell of a class map shows the defect where so much of its area does.
_CELL_SHARE = 0.25


@dataclass(frozen=True)
class LossWeights:
    """Weights of losses that a conf adds to those of the class and of the mask; 0 leaves one out.

    Attributes:
        pooled_dice: See `pooled_dice`.
        lovasz: See `lovasz_hinge`.
        class_map: See `class_map_loss`.
        patch: See `patch_loss`.
    """

    pooled_dice: float = 0.0
    lovasz: float = 0.0
    class_map: float = 0.0
    patch: float = 0.0

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "LossWeights":
        """Those of a conf, each as `<name>_weight`.

        >>> LossWeights.of({"lovasz_weight": 0.5}).lovasz
        0.5
        """
        return cls(**{f.name: float(parameters.get(f"{f.name}_weight", 0.0)) for f in fields(cls)})


class InspectionLoss:
    """Focal loss of the class, weighted by its rarity, BCE and Dice of the mask, and what is added.

    Args:
        images: All training images, for the class weights.
        classes: C, the number of classes.
        focal_gamma: Exponent of the focal loss; 0 is cross-entropy.
        weights: Of the added losses.
        device: Where the logits are.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5.
    """

    def __init__(
        self,
        images: LabelledImages,
        classes: int,
        focal_gamma: float,
        weights: LossWeights,
        device: torch.device,
    ) -> None:
        count = images.class_counts(classes)
        weight = np.sqrt(count.max() / np.maximum(count, 1))
        self._weight = torch.from_numpy(weight / weight.mean()).float().to(device)
        self._focal_gamma = focal_gamma
        self._weights = weights

    def __call__(self, logits: Logits, label: Tensor, mask: Tensor, has_mask: Tensor) -> Tensor:
        """The loss of N images, a scalar.

        Args:
            label: (N,) index of the class, 0 for good.
            mask: (N, H, W), augmented as the pixels were.
            has_mask: (N,) whether an image's mask is known and counts.
        """
        loss = self._focal_loss(logits.kind, label)
        if self._weights.patch:
            loss = loss + self._weights.patch * patch_loss(logits.mask, label > 0)
        if has_mask.any():
            loss = loss + self._mask_losses(logits, label, mask, has_mask)
        return loss

    def _mask_losses(self, logits: Logits, label: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        label, mask = label[rows], mask[rows]
        drawn = logits.mask[rows, 0]
        loss = _bce(drawn, mask)
        if logits.class_maps is not None:
            maps = logits.class_maps[rows]
            loss = loss + self._weights.class_map * class_map_loss(maps, label, mask)
        defective = mask.flatten(1).any(dim=1)
        if not defective.any():
            return loss
        label, mask, drawn = label[defective], mask[defective], drawn[defective]
        loss = loss + dice(torch.sigmoid(drawn), mask).mean()
        if self._weights.pooled_dice:
            pooled = pooled_dice(torch.sigmoid(drawn), mask, label)
            loss = loss + self._weights.pooled_dice * pooled
        if self._weights.lovasz:
            loss = loss + self._weights.lovasz * lovasz_hinge(drawn, mask)
        return loss

    def _focal_loss(self, class_logits: Tensor, label: Tensor) -> Tensor:
        log_p = functional.log_softmax(class_logits, dim=1).gather(1, label[:, None])[:, 0]
        weight = self._weight[label]
        return -(weight * (1 - log_p.exp()) ** self._focal_gamma * log_p).sum() / weight.sum()


def _bce(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy over all pixels, those of defects weighted."""
    weight = torch.full((), _PIXEL_WEIGHT, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)


def dice(p: Tensor, mask: Tensor) -> Tensor:
    """(N,) Dice loss of each image, of probabilities (N, H, W).

    Source: Milletari et al., "V-Net", 2016, eq. 1, with 1 added to both sums.
    """
    p, mask = p.flatten(1), mask.flatten(1)
    return 1 - (2 * (p * mask).sum(1) + 1) / (p.sum(1) + mask.sum(1) + 1)


def pooled_dice(p: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """Dice loss of each class's images together, as mIoU is measured; the mean over the classes.

    Args:
        p: (N, H, W) probabilities, of defective images alone.
        label: (N,) their classes.
    """
    _, of_class = label.unique(return_inverse=True)
    members = functional.one_hot(of_class).float().T
    p, mask = p.flatten(1), mask.flatten(1)
    both, sums = members @ (p * mask).sum(1), members @ (p.sum(1) + mask.sum(1))
    return (1 - (2 * both + 1) / (sums + 1)).mean()


def lovasz_hinge(logits: Tensor, mask: Tensor) -> Tensor:
    """The mean over images of a convex bound of 1 - IoU, of defective images alone.

    Source: Berman et al., "The Lovász-Softmax Loss", 2018, section 3.1 and algorithm 1.
    """
    logits, mask = logits.flatten(1), mask.flatten(1)
    error = 1 - logits * (2 * mask - 1)
    # Only errors above 0 count, which are few after some epochs.
    error, order = error.topk(int((error > 0).sum(dim=1).max()), dim=1)
    truth, count = mask.gather(1, order), mask.sum(dim=1, keepdim=True)
    intersection = count - truth.cumsum(1)
    union = count + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1)
    gradient = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(count))
    return (functional.relu(error) * gradient).sum(1).mean()


def class_map_loss(maps: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """BCE and Dice of a map for each defect class, (N, C - 1, h, w) logits.

    A defect is in its class's map, so that the encoder also tells defects apart by place.
    """
    _, count, height, width = maps.shape
    cells = functional.adaptive_avg_pool2d(mask[:, None], (height, width)) > _CELL_SHARE
    kinds = functional.one_hot(label, count + 1)[:, 1:, None, None]
    target = cells.float() * kinds
    loss = _CLASS_MAP_BCE * _bce(maps, target)
    shown = target.flatten(2).any(dim=2)
    if shown.any():
        loss = loss + dice(torch.sigmoid(maps[shown]), target[shown]).mean()
    return loss


def patch_loss(mask_logits: Tensor, defective: Tensor) -> Tensor:
    """Cross-entropy of the mask's highest patch, which serving takes for P(defect).

    It also teaches the mask with defects that have no outline.

    Args:
        mask_logits: (N, 1, H, W).
        defective: (N,) whether there is a defect.
    """
    p = patch_score(mask_logits)[:, 0].clamp(1e-4, 1 - 1e-4)
    return functional.binary_cross_entropy(p, defective.float())
