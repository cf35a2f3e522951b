"""Normality: learns good parts alone, for a line that has no defects yet.

The novelty is the score, and the distances of the patches are the mask. It says that a part is
unlike the good ones, not which defect it has: its defect classes are equally probable. P(defect) is
a rank, not a probability, until labels come.

Source: Defard et al., "PaDiM", 2021; see `novelty`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.image_candidate import ImageCandidate
from services.cv_inspection.candidates.novelty import Novelty
from services.cv_inspection.features.labelled_images import LabelledImages
from services.platform.progress import ProgressCallback
from services.platform.torch.training import dump_weights, load_weights

_FILE = "normality.pt"
# A novelty, in standard deviations, whose P(defect) is 1/2.
_EVEN = 10.0
# Share of good images none of whose patches is in the mask.
_CLEAN_SHARE = 0.99
# Share of the images that limit the mask, where none are given for it.
_HELD_OUT_SHARE = 0.2


class NormalityNetwork(nn.Module):
    """Novelty as probabilities and a mask.

    Args:
        size: (H, W) of the images.
        classes: C, the number of classes.
    """

    limit: Tensor

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.novelty = Novelty(*size)
        self._size, self._classes = size, classes
        # A patch farther off than this is in the mask.
        self.register_buffer("limit", torch.ones(()))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `ImageCandidate.inference`."""
        novelty, patches = self.novelty(pixels)
        above = novelty.clamp(min=0.0)[:, None]
        defect = above / (above + _EVEN)
        kinds = (defect / (self._classes - 1)).expand(-1, self._classes - 1)
        distance = patches * self.novelty.spread + self.novelty.centre
        logits = functional.interpolate(
            distance - self.limit, size=self._size, mode="bilinear", align_corners=False
        )
        return torch.cat([1.0 - defect, kinds], dim=1), logits, novelty, patches


@CANDIDATES.register
class Normality(ImageCandidate):
    """No weights are trained: a mean and a covariance of features."""

    name = "normality"
    role = "needs no defects"
    good_only = True

    def fit(
        self, train: LabelledImages, validation: LabelledImages, seed: int, step: ProgressCallback
    ) -> None:
        """Fit the Gaussian on the good parts of `train`; those of `validation` limit the mask.

        Raises:
            ValueError: there are no good parts.
        """
        self._net = NormalityNetwork(self.size, len(self.classes))
        self.origin = self._net.novelty.fit(train.vectors[~train.positive], seed)
        good = validation.vectors[~validation.positive]
        self._net.limit.zero_()
        held_out = good if len(good) else train.vectors[~train.positive]
        farthest = self.predict(held_out).masks.max(axis=(1, 2))
        self._net.limit.fill_(float(np.quantile(farthest, _CLEAN_SHARE)))
        step(1, 1)

    def fit_more(self, train: LabelledImages, seed: int, step: ProgressCallback) -> None:
        """Fit anew on the good parts; some of them, which are left out, limit the mask."""
        held_out = np.random.default_rng(seed).random(len(train)) < _HELD_OUT_SHARE
        self.fit(train.select(~held_out), train.select(held_out), seed, step)

    def inference(self) -> nn.Module:
        """See `ImageCandidate.inference`."""
        return self._net

    def save(self, folder: Path) -> None:
        """Write encoder, mean and covariance into a folder."""
        (folder / _FILE).write_bytes(dump_weights(self._net))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self._net = NormalityNetwork(self.size, len(self.classes))
        load_weights(self._net, (folder / _FILE).read_bytes())
