"""Base class of the inspection candidates: what they answer, and their export.

Only training imports this module.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from services.cv_inspection.features.image import parse_size
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.model import (
    IMAGE,
    MASK,
    MAX_REDUCTION,
    NOVELTY,
    PATCH_NOVELTY,
    PROBABILITIES,
)
from services.platform.models.candidates import Candidate
from services.platform.torch.export import export_network
from services.platform.types import Floats, Floats32

_PREDICT_BATCH = 32


class Prediction(NamedTuple):
    """A candidate's answers for N images.

    Attributes:
        probabilities: (N, C) by class.
        masks: (N, H, W) mask logits.
        novelty: (N,) distance from the good parts of training, in their standard deviations; 0
            where it is not measured.
        patches: (N, h, w) the same of each patch; h and w are 0 where it is not measured.
    """

    probabilities: Floats32
    masks: Floats32
    novelty: Floats32
    patches: Floats32


class ImageCandidate(Candidate[LabelledImages]):
    """A candidate that answers with class probabilities, a mask and the novelty of an image.

    Attributes:
        good_only: Whether it learns from good parts alone.
        classes: Names of the C classes, `good` first.
        size: (H, W) of its input, pixels.
        origin: Where its initial weights came from.
    """

    good_only = False

    def __init__(self, parameters: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        super().__init__(parameters, (IMAGE,))
        self.classes = classes
        self.size = parse_size(self.parameters["size"])
        self.origin = ""

    @abstractmethod
    def inference(self) -> nn.Module:
        """(N, H, W, 3) uint8 to (N, C) probabilities, (N, 1, H, W) mask logits, (N,) novelty.

        And to (N, 1, h, w) novelty of patches. Both novelties may be missing.
        """

    @property
    def limits(self) -> dict[str, float]:
        """The card's limits that follow from the conf."""
        return {MAX_REDUCTION: float(self.parameters["max_reduction"])}

    def predict(self, pixels: npt.NDArray[np.uint8]) -> Prediction:
        """The answers for (N, H, W, 3) pixels, by torch."""
        parts = []
        net = self.inference().eval()
        with torch.no_grad():
            for begin in range(0, len(pixels), _PREDICT_BATCH):
                batch = torch.from_numpy(pixels[begin : begin + _PREDICT_BATCH])
                outputs = list(net(batch))
                unknown = [torch.zeros(len(batch)), torch.zeros(len(batch), 1, 0, 0)]
                p, mask, novelty, patches = outputs + unknown[len(outputs) - 2 :]
                parts.append([part.numpy() for part in (p, mask[:, 0], novelty, patches[:, 0])])
        return Prediction(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def score(self, examples: LabelledImages) -> Floats:
        """(N,) probability of any defect, by torch."""
        return 1.0 - self.predict(examples.vectors).probabilities[:, 0].astype(np.float64)

    def export(self) -> bytes:
        """Input `image`; outputs `probabilities` and `mask`, and both novelties if measured."""
        net = self.inference().eval()
        example = torch.zeros((2, *self.size, 3), dtype=torch.uint8)
        with torch.no_grad():
            names = [PROBABILITIES, MASK, NOVELTY, PATCH_NOVELTY][: len(net(example))]
        return export_network(net, [example], [IMAGE], names, ({0: torch.export.Dim("images")},))
