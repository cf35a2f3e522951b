"""What an inspector's two heads are trained to make small."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.cv_inspection.features.labelled_images import Pictures


class Losses:
    """Focal loss of the class, weighted by how rare it is, and BCE + Dice of the mask.

    Args:
        pictures: All that are trained on. focus: The focal loss's exponent.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5; Milletari et al.,
    "V-Net", 2016, eq. 1 (Dice).
    """

    def __init__(self, pictures: Pictures, classes: int, focus: float) -> None:
        count = pictures.shown(classes)
        weight = np.sqrt(count.max() / np.maximum(count, 1))
        self._weight = torch.from_numpy(weight / weight.mean()).float()
        self._focus = focus

    def __call__(self, kind: Tensor, found: Tensor, pictures: Pictures, mask: Tensor) -> Tensor:
        label = torch.from_numpy(pictures.label)
        outlined = torch.from_numpy(pictures.outlined)
        loss = self._focal(kind, label)
        if outlined.any():
            loss = loss + _outline(found[outlined], mask[outlined])
        return loss

    def _focal(self, kind: Tensor, label: Tensor) -> Tensor:
        log_p = functional.log_softmax(kind, dim=1).gather(1, label[:, None])[:, 0]
        weight = self._weight[label]
        return -(weight * (1 - log_p.exp()) ** self._focus * log_p).sum() / weight.sum()


def _outline(found: Tensor, mask: Tensor) -> Tensor:
    """BCE over all pixels, Dice over the pictures that have a defect."""
    loss = functional.binary_cross_entropy_with_logits(found, mask, pos_weight=torch.tensor(5.0))
    drawn = mask.flatten(1).any(dim=1)
    if drawn.any():
        p, t = torch.sigmoid(found[drawn]).flatten(1), mask[drawn].flatten(1)
        dice = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        loss = loss + (1 - dice).mean()
    return loss
