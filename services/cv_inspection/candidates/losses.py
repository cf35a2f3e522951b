"""The training loss of the two heads."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.features.labelled_images import LabelledImages


class InspectionLoss:
    """Focal loss of the class, weighted by its rarity, plus BCE and Dice of the mask.

    Args:
        images: All training images, for the class weights.
        classes: C, the number of classes.
        focal_gamma: Exponent of the focal loss; 0 is cross-entropy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5; Milletari et al.,
    "V-Net", 2016, eq. 1 (Dice).
    """

    def __init__(self, images: LabelledImages, classes: int, focal_gamma: float) -> None:
        count = images.class_counts(classes)
        weight = np.sqrt(count.max() / np.maximum(count, 1))
        self._weight = torch.from_numpy(weight / weight.mean()).float()
        self._focal_gamma = focal_gamma

    def __call__(
        self, class_logits: Tensor, mask_logits: Tensor, images: LabelledImages, mask: Tensor
    ) -> Tensor:
        """The loss, a scalar, of (N, C) class logits and (N, S, S) mask logits.

        Args:
            images: The batch's labels; its masks count where `has_mask` is true.
            mask: (N, S, S) float32, augmented as the pixels were.
        """
        label = torch.from_numpy(images.label)
        has_mask = torch.from_numpy(images.has_mask)
        loss = self._focal_loss(class_logits, label)
        if has_mask.any():
            loss = loss + _mask_loss(mask_logits[has_mask], mask[has_mask])
        return loss

    def _focal_loss(self, class_logits: Tensor, label: Tensor) -> Tensor:
        log_p = functional.log_softmax(class_logits, dim=1).gather(1, label[:, None])[:, 0]
        weight = self._weight[label]
        return -(weight * (1 - log_p.exp()) ** self._focal_gamma * log_p).sum() / weight.sum()


def _mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """BCE over all pixels, plus Dice over the images that have a defect."""
    loss = functional.binary_cross_entropy_with_logits(logits, mask, pos_weight=torch.tensor(5.0))
    defective = mask.flatten(1).any(dim=1)
    if defective.any():
        p, t = torch.sigmoid(logits[defective]).flatten(1), mask[defective].flatten(1)
        dice = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        loss = loss + (1 - dice).mean()
    return loss
