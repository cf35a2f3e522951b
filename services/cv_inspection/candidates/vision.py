"""Base class of the candidates that learn from defects: training of a network with two heads.

Only training imports this module.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from services.cv_inspection.candidates import weights
from services.cv_inspection.candidates.augmentation import augment
from services.cv_inspection.candidates.batch_norm_folding import folded_batch_norms
from services.cv_inspection.candidates.image_candidate import ImageCandidate
from services.cv_inspection.candidates.losses import InspectionLoss, LossWeights
from services.cv_inspection.candidates.networks import InferenceNetwork, InspectionNetwork, Network
from services.cv_inspection.candidates.novelty import MAX_IMAGES, Novelty
from services.cv_inspection.candidates.pasting import Pasting
from services.cv_inspection.features.labelled_images import LabelledImages
from services.platform.progress import ProgressCallback
from services.platform.torch.device import mixed_precision, training_device
from services.platform.torch.training import dump_weights, load_weights, minimise

_FILE, _NOVELTY_FILE = "weights.pt", "novelty.pt"
_WARM_UP_SHARE, _WEIGHT_DECAY = 0.15, 0.01
# Eight images of 256 px, see `Network.pixels_at_once`.
_PIXELS_AT_ONCE = 2**19
# Sides of small images, of the input's; and the encoders' stride, pixels.
_SMALL, _STRIDE = 0.75, 32


class TwoHeadCandidate(ImageCandidate):
    """A candidate made of one encoder and two heads.

    Attributes:
        encoder: Name in timm.
        package: A module that contains weights for it, if any.
        network: The encoder's kind of network, with its decoder.
    """

    encoder: ClassVar[str]
    package: ClassVar[str] = ""
    network: ClassVar[type[Network]]

    def __init__(self, parameters: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        super().__init__(parameters, classes)
        self._net = self._new_network()
        self._novelty: Novelty | None = None

    def fit(
        self, train: LabelledImages, validation: LabelledImages, seed: int, step: ProgressCallback
    ) -> None:
        """Train for a fixed number of epochs; `validation` gives the share of good parts."""
        torch.manual_seed(seed)
        self._net = self._new_network()
        encoder = self._net.net.encoder
        source = str(self.parameters.get("weights", "auto"))
        self.origin = weights.initialise(encoder, self.encoder, source, self.package)
        self._train(train, seed, 1.0, self.parameters["epochs"], step)
        self._adjust_priors(train, validation)
        self._fit_novelty(train, seed)

    def fit_more(self, train: LabelledImages, seed: int, step: ProgressCallback) -> None:
        """Continue training, for `more_epochs` at a fifth of the learning rate."""
        torch.manual_seed(seed)
        self._train(train, seed, 0.2, self.parameters["more_epochs"], step)
        self._fit_novelty(train, seed)

    def inference(self) -> nn.Module:
        """The network with its novelty, see `ImageCandidate.inference`."""
        return InferenceNetwork(self._net, self._novelty)

    def save(self, folder: Path) -> None:
        """Write the weights into a folder."""
        (folder / _FILE).write_bytes(dump_weights(self._net))
        if self._novelty is not None:
            (folder / _NOVELTY_FILE).write_bytes(dump_weights(self._novelty))

    def load(self, folder: Path) -> None:
        """Read the weights from a folder. RuntimeError if they are of other classes."""
        load_weights(self._net, (folder / _FILE).read_bytes())
        # Models of earlier versions have none.
        if (folder / _NOVELTY_FILE).exists():
            self._novelty = Novelty(*self.size)
            load_weights(self._novelty, (folder / _NOVELTY_FILE).read_bytes())

    def _fit_novelty(self, train: LabelledImages, seed: int) -> None:
        most = len(train) if train.weight is None else MAX_IMAGES
        good = train.vectors[train.good(np.random.default_rng(seed), most)]
        if len(good):
            self._novelty = Novelty(*self.size)
            self._novelty.fit(good, seed)

    def _new_network(self) -> InspectionNetwork:
        count = len(self.classes)
        maps = count - 1 if LossWeights.of(self.parameters).class_map else 0
        net = InspectionNetwork(
            self.network(self.encoder, maps),
            self.encoder,
            count,
            float(self.parameters.get("novelty_weight", 0.0)),
            bool(self.parameters.get("normalise_by_image", False)),
        )
        # Depthwise convolutions train 1.5 times as fast in this layout on a CPU.
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _adjust_priors(self, train: LabelledImages, validation: LabelledImages) -> None:
        count = train.class_counts(len(self.classes))
        train_good = float(count[0] / count.sum())
        line_good = 1.0 - float(np.average(validation.positive, weights=validation.weight))
        if 0.0 < train_good < 1.0 and 0.0 < line_good < 1.0:
            self._net.adjust_priors(train_good, line_good)

    def _train(
        self,
        images: LabelledImages,
        seed: int,
        learning_rate_scale: float,
        epochs: object,
        step: ProgressCallback,
    ) -> None:
        """Minimise the losses of both heads on shuffled and augmented images.

        Args:
            learning_rate_scale: Factor of the conf's learning rates.
        """
        batches = max(
            int(images.class_counts(len(self.classes)).sum()) // int(self.parameters["batch"]), 1
        )
        total = int(str(epochs)) * batches
        encoder, heads = (
            learning_rate_scale * float(self.parameters[n])
            for n in ("learning_rate", "head_learning_rate")
        )
        # Random weights are not worth freezing.
        frozen = 0 if self.origin == weights.SCRATCH else int(self.parameters["frozen_layers"])
        device = training_device()
        self._net.to(device)
        _make_trainable(self._net, frozen, bool(self.parameters["freeze_batch_norm"]))
        groups = _parameter_groups(self._net, encoder, heads)
        if self.parameters["freeze_batch_norm"] and device.type == "cpu":
            self._net.net.pixels_at_once = _PIXELS_AT_ONCE
        losses = self._losses(images, np.random.default_rng(seed), batches, total, device)
        with folded_batch_norms(self._net.net.encoder):
            minimise(losses, groups, _WEIGHT_DECAY, total, step, _WARM_UP_SHARE)
        self._net.eval().cpu()

    def _losses(
        self,
        images: LabelledImages,
        rng: np.random.Generator,
        batches: int,
        total: int,
        device: torch.device,
    ) -> Iterator[Tensor]:
        """The losses of `total` batches, `batches` an epoch."""
        batch, jitter = int(self.parameters["batch"]), float(self.parameters["exposure_jitter"])
        added, gamma = LossWeights.of(self.parameters), float(self.parameters["focal_gamma"])
        loss_of = InspectionLoss(images, len(self.classes), gamma, added, device)
        share = float(self.parameters.get("pasted_share", 0.0))
        paste = Pasting(images, share) if share else None
        small = float(self.parameters.get("small_share", 0.0)) * total
        for number in range(total):
            if number % batches == 0:
                order = images.balanced(rng)
            drawn = images.select(order[(number % batches) * batch :][:batch])
            size = _small(self.size) if number < small else self.size
            pixels, mask, label = augment(drawn, jitter, rng, device, size, paste)
            has_mask = torch.from_numpy(drawn.has_mask).to(device)
            with mixed_precision(device):
                logits = self._net(pixels.permute(0, 2, 3, 1))
            yield loss_of(logits.to_float(), label, mask, has_mask)


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images that training begins with.

    Source: Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", 2021, section 4.
    """
    height, width = (max(round(_SMALL * side / _STRIDE), 1) * _STRIDE for side in size)
    return height, width


def _parameter_groups(
    net: InspectionNetwork, learning_rate: float, head_learning_rate: float
) -> list[dict[str, Any]]:
    """The pretrained encoder gets a lower learning rate than the heads, which start at random."""
    encoder = list(net.net.encoder.parameters())
    known = {id(p) for p in encoder}
    heads = [p for p in net.parameters() if id(p) not in known]
    trainable = [p for p in encoder if p.requires_grad]
    return [{"params": trainable, "lr": learning_rate}, {"params": heads, "lr": head_learning_rate}]


def _make_trainable(net: InspectionNetwork, frozen_layers: int, freeze_batch_norm: bool) -> None:
    """Switch a network to training, and freeze a part of its encoder.

    Args:
        frozen_layers: How many of the encoder's layers stay as they are, from the input on.
        freeze_batch_norm: Whether the other layers keep their batch statistics.
    """
    net.train()
    net.requires_grad_(True)
    encoder = net.net.encoder
    for module in encoder.modules():
        if freeze_batch_norm and isinstance(module, nn.BatchNorm2d):
            module.eval()
    for layer in _layers(encoder)[:frozen_layers]:
        layer.eval().requires_grad_(False)


def _layers(encoder: nn.Module) -> list[nn.Module]:
    """Stem, norms, stages or blocks, in the order of the forward pass."""
    lists = (nn.Sequential, nn.ModuleList)
    return [
        layer
        for child in encoder.children()
        for layer in (child if isinstance(child, lists) else (child,))
    ]
