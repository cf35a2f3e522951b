"""The candidates' networks: an encoder of timm's, a mask decoder, and the two heads' answer.

Encoder and decoder come from segmentation_models_pytorch.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.cv_inspection.candidates import timm_guard  # noqa: F401

# isort: split
import segmentation_models_pytorch as smp
import timm

# No probability is nothing: its logarithm is taken.
_LEAST = 1e-7
# Side of the patch that must look like a defect as a whole, pixels of the mask.
_PATCH = 5


class Network(nn.Module):
    """An encoder and a mask decoder: (N, 3, S, S) -> levels [(N, c, s, s)], (N, 1, S, S) logits.

    Attributes:
        encoder: timm's. channels: c of each level.
    """

    def __init__(self, net: smp.base.SegmentationModel) -> None:
        super().__init__()
        self.net = net
        self.encoder: nn.Module = net.encoder.model
        self.channels: list[int] = net.encoder.out_channels[-4:]


class Pyramid(Network):
    """An encoder whose levels shrink, with a feature pyramid.

    Source: Kirillov et al., "Panoptic Feature Pyramid Networks", 2019.
    """

    def __init__(self, encoder: str) -> None:
        net = smp.FPN(
            f"tu-{encoder}", encoder_weights=None, classes=1,
            decoder_pyramid_channels=32, decoder_segmentation_channels=32,
        )  # fmt: skip
        super().__init__(net)

    def forward(self, values: Tensor) -> tuple[list[Tensor], Tensor]:
        levels = self.net.encoder(values)
        return levels[-4:], self.net.segmentation_head(self.net.decoder(levels))


class DensePrediction(Network):
    """A ViT, whose levels are of one size, with a dense prediction head.

    Source: Ranftl et al., "Vision Transformers for Dense Prediction", 2021.
    """

    def __init__(self, encoder: str) -> None:
        net = smp.DPT(
            f"tu-{encoder}", encoder_weights=None, classes=1,
            decoder_intermediate_channels=(32, 32, 32, 32), decoder_fusion_channels=32,
            dynamic_img_size=True,
        )  # fmt: skip
        super().__init__(net)

    def forward(self, values: Tensor) -> tuple[list[Tensor], Tensor]:
        levels, tokens = self.net.encoder(values)
        return levels, self.net.segmentation_head(self.net.decoder(levels, tokens))


class Inspector(nn.Module):
    """Pixels to what it is and where: (N, S, S, 3) uint8 -> (N, C) and (N, 1, S, S) logits.

    Pre-processing is part of it, so that training and serving cannot differ in it. The class is
    read off every level's mean and maximum, and off the mask: a pit of ten pixels is lost in a mean
    over the deepest level, which is what a classifier of whole pictures looks at.

    Args:
        net: Encoder and mask decoder. encoder: Its encoder's name in timm.
    """

    mean: Tensor
    spread: Tensor
    shift: Tensor

    def __init__(self, net: Network, encoder: str, classes: int) -> None:
        super().__init__()
        self.net: Network = net
        wanted = timm.get_pretrained_cfg(encoder)
        mean = (0.5, 0.5, 0.5) if wanted is None else wanted.mean
        spread = (0.5, 0.5, 0.5) if wanted is None else wanted.std
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("spread", 255.0 * torch.tensor(spread).view(1, 3, 1, 1))
        width = 2 * sum(net.channels) + 2
        self.kind = nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, classes))
        # From how often a class was shown to how often it comes: see `expect`.
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What each head says alone, which is what each is trained on."""
        values = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.spread
        levels, mask = self.net(values.contiguous(memory_format=torch.channels_last))
        seen = [*levels, torch.sigmoid(mask)]
        pooled = [pool(level) for level in seen for pool in (_mean, _highest)]
        return self.kind(torch.cat(pooled, dim=1)), mask

    def answer(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) probabilities and (N, 1, S, S) mask logits.

        Two witnesses tell whether there is a defect, and the mean of what they say is better than
        either (ADR 10): the class head, which sees the whole picture and learns the parts it was
        shown by heart, and the mask, which only sees texture. What defect it is tells the head.
        """
        kind, mask = self(pixels)
        drawn = _highest(functional.avg_pool2d(torch.sigmoid(mask), _PATCH, stride=2))
        good = 0.5 * (torch.softmax(kind, dim=1)[:, :1] + 1.0 - drawn)
        bad = (1.0 - good) * torch.softmax(kind[:, 1:], dim=1)
        said = torch.log(torch.cat([good, bad], dim=1).clamp(min=_LEAST))
        return torch.softmax(said + self.shift, dim=1), mask

    def expect(self, shown: float, come: float) -> None:
        """Correct the probabilities for defects that were shown more often than they come.

        The defects among each other stay as they were shown: rare ones are too few to count.

        Args:
            shown, come: Share of good parts in training, and on the line, both inside 0..1.

        Source: Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities", Neural Computation 2002, eq. 2.
        """
        self.shift[0] = math.log(come / shown)
        self.shift[1:] = math.log((1 - come) / (1 - shown))


def _mean(level: Tensor) -> Tensor:
    return level.mean(dim=(2, 3))


def _highest(level: Tensor) -> Tensor:
    return level.amax(dim=(2, 3))


class Answers(nn.Module):
    """An inspector that answers: what is exported."""

    def __init__(self, net: Inspector) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.answer(pixels)
