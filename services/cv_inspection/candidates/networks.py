"""The candidates' networks: an encoder of timm, a mask decoder, and the two heads.

Encoder and decoder are built by segmentation_models_pytorch. Names of submodules and buffers are
keys of the stored weights, so they do not change.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.platform.torch import timm_guard  # noqa: F401

# isort: split
import segmentation_models_pytorch as smp
import timm

from services.cv_inspection.candidates.novelty import Novelty
from services.platform.torch.activations import make_out_of_place

# Lower bound of a probability whose logarithm is taken.
_MIN_PROBABILITY = 1e-7
# Side of the patch over which the mask is averaged, pixels.
_PATCH_SIDE = 5
# A novelty, in standard deviations, that is as sure a defect as any.
_NOVEL = 10.0
# Scale of pixels that are normalised by image, and what is added to their deviation, grey levels.
_IMAGE_SCALE, _MIN_SPREAD = 0.45, 4.0


class Decoded(NamedTuple):
    """What encoder and decoder make of N images.

    Attributes:
        levels: Four levels of the encoder, (N, c, s, s).
        mask: (N, 1, H, W) logits.
        class_maps: (N, K, s, s) logits of a map for each defect class, None without them.
    """

    levels: list[Tensor]
    mask: Tensor
    class_maps: Tensor | None


class Logits(NamedTuple):
    """What the heads say of N images, for the loss.

    Attributes:
        kind: (N, C) logits of the class.
        mask: (N, 1, H, W) logits of the mask.
        class_maps: See `Decoded`.
    """

    kind: Tensor
    mask: Tensor
    class_maps: Tensor | None

    def to_float(self) -> "Logits":
        """In 32 bits, in which losses are computed."""
        maps = None if self.class_maps is None else self.class_maps.float()
        return Logits(self.kind.float(), self.mask.float(), maps)


class Network(nn.Module):
    """An encoder and a mask decoder.

    Attributes:
        net: Both, as segmentation_models_pytorch builds them.
        class_maps: K, how many maps beside the mask there are: 0, or one for each defect class.
        encoder: The timm model.
        channels: c of each of the four levels.
        pixels_at_once: How many pixels of a batch a pyramid takes at once in training, as whole
            images, 0 for all. The result is the same where the encoder keeps its batch statistics.
            On a CPU a step is faster, presumably because the cache still holds more of what the
            layer before wrote.
    """

    def __init__(self, net: smp.base.SegmentationModel, class_maps: int) -> None:
        super().__init__()
        self.pixels_at_once = 0
        make_out_of_place(net)
        self.net = net
        self.class_maps = class_maps
        self.encoder: nn.Module = net.encoder.model
        self.channels: list[int] = net.encoder.out_channels[-4:]


class Pyramid(Network):
    """An encoder with levels of decreasing size, and a feature pyramid.

    Source: Kirillov et al., "Panoptic Feature Pyramid Networks", 2019.
    """

    def __init__(self, encoder: str, class_maps: int = 0) -> None:
        net = smp.FPN(
            f"tu-{encoder}", encoder_weights=None, classes=1 + class_maps,
            decoder_pyramid_channels=32, decoder_segmentation_channels=32,
        )  # fmt: skip
        super().__init__(net, class_maps)

    def forward(self, values: Tensor) -> Decoded:
        """(N, 3, H, W) to levels, mask, and class maps at a quarter of the image's size."""
        if not self.training or not self.pixels_at_once:
            return self._decode(values)
        height, width = values.shape[-2:]
        images = max(self.pixels_at_once // (height * width), 1)
        parts = [self._decode(part) for part in values.split(images)]
        levels = [torch.cat(level) for level in zip(*(p.levels for p in parts), strict=True)]
        maps = [p.class_maps for p in parts if p.class_maps is not None]
        mask = torch.cat([p.mask for p in parts])
        return Decoded(levels, mask, torch.cat(maps) if maps else None)

    def _decode(self, values: Tensor) -> Decoded:
        levels = self.net.encoder(values)
        classify, enlarge, _ = self.net.segmentation_head
        maps = classify(self.net.decoder(levels))
        if not self.class_maps:
            return Decoded(levels[-4:], enlarge(maps), None)
        # Only the mask is needed at the image's size. Aligning corners, as `enlarge` does, would
        # shift it by up to 1.5 pixels, which is as much as a crack is wide.
        size = values.shape[-2:]
        mask = functional.interpolate(maps[:, :1], size, mode="bilinear", align_corners=False)
        return Decoded(levels[-4:], mask, maps[:, 1:])


class DensePrediction(Network):
    """A ViT, whose levels have one size, and a dense prediction head.

    Source: Ranftl et al., "Vision Transformers for Dense Prediction", 2021.
    """

    def __init__(self, encoder: str, class_maps: int = 0) -> None:
        net = smp.DPT(
            f"tu-{encoder}", encoder_weights=None, classes=1 + class_maps,
            decoder_intermediate_channels=(32, 32, 32, 32), decoder_fusion_channels=32,
            dynamic_img_size=True,
        )  # fmt: skip
        super().__init__(net, class_maps)

    def forward(self, values: Tensor) -> Decoded:
        """(N, 3, H, W) to levels, mask, and class maps at the image's size."""
        levels, tokens = self.net.encoder(values)
        maps = self.net.segmentation_head(self.net.decoder(levels, tokens))
        return Decoded(levels, maps[:, :1], maps[:, 1:] if self.class_maps else None)


class InspectionNetwork(nn.Module):
    """An encoder with a class head and a mask head.

    Pre-processing is part of the network, so that training and serving cannot differ in it. The
    class head reads mean and maximum of every level and of the mask: a pit of ten pixels is lost in
    the mean over the deepest level, which an image classifier uses.

    Args:
        net: Encoder and mask decoder.
        encoder: The encoder's name in timm.
        classes: C, the number of classes.
        novelty_weight: Weight of the novelty in P(defect), beside the 1 of the two heads.
        by_image: Whether pixels are normalised by their image's mean and deviation, not ImageNet's.
    """

    mean: Tensor
    spread: Tensor
    shift: Tensor

    def __init__(
        self,
        net: Network,
        encoder: str,
        classes: int,
        novelty_weight: float = 0.0,
        by_image: bool = False,
    ) -> None:
        super().__init__()
        self.net: Network = net
        self.by_image = by_image
        self.novelty_weight = novelty_weight
        pretrained = timm.get_pretrained_cfg(encoder)
        mean = (0.5, 0.5, 0.5) if pretrained is None else pretrained.mean
        spread = (0.5, 0.5, 0.5) if pretrained is None else pretrained.std
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("spread", 255.0 * torch.tensor(spread).view(1, 3, 1, 1))
        width = 2 * (sum(net.channels) + 1 + net.class_maps)
        self.kind = nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, classes))
        # Added to the log probabilities: see `adjust_priors`.
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, pixels: Tensor) -> Logits:
        """(N, H, W, 3) pixels, 0..255, to the heads' logits."""
        values = self._normalised(pixels.permute(0, 3, 1, 2).float())
        levels, mask, class_maps = self.net(values.contiguous(memory_format=torch.channels_last))
        maps = [*levels, torch.sigmoid(mask)]
        if class_maps is not None:
            maps.append(torch.sigmoid(class_maps))
        pooled = [pool(level) for level in maps for pool in (_mean, _max)]
        return Logits(self.kind(torch.cat(pooled, dim=1)), mask, class_maps)

    def _normalised(self, values: Tensor) -> Tensor:
        if not self.by_image:
            return (values - self.mean) / self.spread
        mean = values.mean(dim=(1, 2, 3), keepdim=True)
        spread = (values - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return _IMAGE_SCALE * (values - mean) / (spread + _MIN_SPREAD)

    def infer(self, pixels: Tensor, novelty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 to (N, C) probabilities and (N, 1, H, W) mask logits.

        P(defect) is the mean of the class head and the mask head, which is better than either
        (ADR 10): the class head uses the whole image and memorises training parts, the mask head
        uses only texture. Novelty, (N,), is a third opinion where it has a weight: it saturates at
        10 standard deviations. Which defect it is, the class head decides.
        """
        class_logits, mask, _ = self(pixels)
        mask_defect = patch_score(mask)
        good = 0.5 * (torch.softmax(class_logits, dim=1)[:, :1] + 1.0 - mask_defect)
        if novelty is not None and self.novelty_weight:
            novel = (novelty[:, None] / _NOVEL).clamp(0.0, 1.0)
            good = (good + self.novelty_weight * (1.0 - novel)) / (1.0 + self.novelty_weight)
        bad = (1.0 - good) * torch.softmax(class_logits[:, 1:], dim=1)
        log_p = torch.log(torch.cat([good, bad], dim=1).clamp(min=_MIN_PROBABILITY))
        return torch.softmax(log_p + self.shift, dim=1), mask

    def adjust_priors(self, train_good: float, line_good: float) -> None:
        """Correct the probabilities for training data with more defects than the line has.

        The ratios between defects stay as in training: rare ones are too few to estimate.

        Args:
            train_good: Share of good parts in training, inside 0..1.
            line_good: Share of good parts on the line, inside 0..1.

        Source: Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities", Neural Computation 2002, eq. 2.
        """
        self.shift[0] = math.log(line_good / train_good)
        self.shift[1:] = math.log((1 - line_good) / (1 - train_good))


def patch_score(mask: Tensor) -> Tensor:
    """(N, 1, H, W) mask logits to (N, 1) P(defect): the highest mean of a patch of the mask."""
    return _max(functional.avg_pool2d(torch.sigmoid(mask), _PATCH_SIDE, stride=2))


def _mean(level: Tensor) -> Tensor:
    return level.mean(dim=(2, 3))


def _max(level: Tensor) -> Tensor:
    return level.amax(dim=(2, 3))


class InferenceNetwork(nn.Module):
    """The network with `infer` as its forward pass, and the novelty, for export."""

    def __init__(self, net: InspectionNetwork, novelty: Novelty | None) -> None:
        super().__init__()
        self.net = net
        self.novelty = novelty

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See `ImageCandidate.inference`; without novelty, the first two."""
        if self.novelty is None:
            return self.net.infer(pixels)
        novelty, patches = self.novelty(pixels)
        return (*self.net.infer(pixels, novelty), novelty, patches)
