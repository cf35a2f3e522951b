"""What the candidates share: an encoder of timm's with two heads, the losses, training, the export.

Only training imports this module. The encoder and the mask decoder come from
segmentation_models_pytorch; losses after Lin et al., "Focal Loss", 2017, eq. 5, and Milletari et
al., "V-Net", 2016, eq. 1 (Dice).
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.cv_inspection import timm_guard  # noqa: F401

# isort: split
import segmentation_models_pytorch as smp
import timm

from services.cv_inspection import weights
from services.cv_inspection.model import IMAGE, MASK, PROBABILITIES
from services.cv_inspection.pictures import Pictures
from services.skeleton.candidates import Candidate, Floats
from services.skeleton.model import Floats32
from services.skeleton.neural import restore, saved
from services.skeleton.progress import Step

_FILE = "weights.pt"
_SCORED_AT_ONCE = 32
_WARM_UP = 0.15
# No probability is nothing: its logarithm is taken.
_LEAST = 1e-7
# Side of the patch that must look like a defect as a whole, pixels of the mask.
_PATCH = 5


class Network(nn.Module):
    """An encoder and a mask decoder: (N, 3, S, S) -> levels [(N, c, s, s)], (N, 1, S, S) logits.

    Attributes:
        encoder: timm's. channels: c of each level.
    """

    encoder: nn.Module
    channels: list[int]


class Pyramid(Network):
    """An encoder whose levels shrink, with a feature pyramid.

    Source: Kirillov et al., "Panoptic Feature Pyramid Networks", 2019.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.net = smp.FPN(
            f"tu-{encoder}", encoder_weights=None, classes=1,
            decoder_pyramid_channels=32, decoder_segmentation_channels=32,
        )  # fmt: skip
        self.encoder = self.net.encoder.model
        self.channels = self.net.encoder.out_channels[-4:]

    def forward(self, values: Tensor) -> tuple[list[Tensor], Tensor]:
        levels = self.net.encoder(values)
        return levels[-4:], self.net.segmentation_head(self.net.decoder(levels))


class DensePrediction(Network):
    """A ViT, whose levels are of one size, with a dense prediction head.

    Source: Ranftl et al., "Vision Transformers for Dense Prediction", 2021.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.net = smp.DPT(
            f"tu-{encoder}", encoder_weights=None, classes=1,
            decoder_intermediate_channels=(32, 32, 32, 32), decoder_fusion_channels=32,
            dynamic_img_size=True,
        )  # fmt: skip
        self.encoder = self.net.encoder.model
        self.channels = self.net.encoder.out_channels[-4:]

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


class _Answers(nn.Module):
    def __init__(self, net: Inspector) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.answer(pixels)


class ImageCandidate(Candidate[Pictures]):
    """A candidate that is one encoder with two heads.

    Attributes:
        encoder: Name in timm. package: A module that carries weights for it.
        network: Which decoder goes with it.
        origin: Where its first weights came from.
    """

    encoder: ClassVar[str]
    package: ClassVar[str] = ""
    network: ClassVar[type[Network]]

    def __init__(self, parameters: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        super().__init__(parameters, (IMAGE,))
        self.classes = classes
        self.size = int(self.parameters["size"])
        self.origin = ""
        self._net = self._untrained()

    def fit(self, train: Pictures, validation: Pictures, seed: int, step: Step) -> None:
        """Train for a fixed number of epochs; validation gives the shares the classes come in."""
        torch.manual_seed(seed)
        self._net = self._untrained()
        encoder = self._net.net.encoder
        wanted = str(self.parameters.get("weights", "auto"))
        self.origin = weights.start(encoder, self.encoder, wanted, self.package)
        self._train(train, seed, 1.0, self.parameters["epochs"], step)
        self._expect(train, validation)

    def fit_more(self, train: Pictures, seed: int, step: Step) -> None:
        """Train on from the present weights, for `more_epochs` at a fifth of the rate."""
        torch.manual_seed(seed)
        self._train(train, seed, 0.2, self.parameters["more_epochs"], step)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats32, Floats32]:
        """((N, C) probabilities, (N, S, S) mask logits) by torch."""
        kinds, masks = [], []
        net = _Answers(self._net).eval()
        with torch.no_grad():
            for begin in range(0, len(pixels), _SCORED_AT_ONCE):
                kind, mask = net(torch.from_numpy(pixels[begin : begin + _SCORED_AT_ONCE]))
                kinds.append(kind.numpy())
                masks.append(mask[:, 0].numpy())
        return np.concatenate(kinds), np.concatenate(masks)

    def score(self, examples: Pictures) -> Floats:
        """Probability of any defect by torch, (N,)."""
        return 1.0 - self.predict(examples.vectors)[0][:, 0].astype(np.float64)

    def export(self) -> bytes:
        """Input `image` (N, S, S, 3) uint8; outputs `probabilities` (N, C), `mask` (N, 1, S, S)."""
        example = torch.zeros((2, self.size, self.size, 3), dtype=torch.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts against each other
            program = torch.onnx.export(
                _Answers(self._net).eval(),
                (example,),
                input_names=[IMAGE],
                output_names=[PROBABILITIES, MASK],
                dynamic_shapes=({0: torch.export.Dim("pictures")},),
                dynamo=True,
                verbose=False,
            )
        if program is None:
            raise RuntimeError("torch exported nothing")
        data: bytes = program.model_proto.SerializeToString()
        onnx.checker.check_model(data)
        return data

    def save(self, folder: Path) -> None:
        """Keep the weights."""
        (folder / _FILE).write_bytes(saved(self._net))

    def load(self, folder: Path) -> None:
        """Take up kept weights. RuntimeError if they are of other classes."""
        restore(self._net, (folder / _FILE).read_bytes())

    def _untrained(self) -> Inspector:
        count = len(self.classes)
        made = Inspector(self.network(self.encoder), self.encoder, count)
        # Depthwise convolutions train half as fast again in this layout on a CPU.
        return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _expect(self, train: Pictures, validation: Pictures) -> None:
        count = _shown(train, len(self.classes))
        shown, come = float(count[0] / count.sum()), 1.0 - float(validation.positive.mean())
        if 0.0 < shown < 1.0 and 0.0 < come < 1.0:
            self._net.expect(shown, come)

    def _train(
        self, pictures: Pictures, seed: int, haste: float, epochs: object, step: Step
    ) -> None:
        """Minimise both heads' losses by AdamW on shuffled, moved and re-lit pictures.

        Args:
            haste: What the conf's learning rates are multiplied by.
        """
        net, rng = self._net, np.random.default_rng(seed)
        batch = int(self.parameters["batch"])
        batches = max(int(_shown(pictures, len(self.classes)).sum()) // batch, 1)
        total = int(str(epochs)) * batches
        encoder, heads = (haste * float(self.parameters[n]) for n in ("rate", "head_rate"))
        # What began from chance has nothing worth keeping.
        frozen = 0 if self.origin == weights.SCRATCH else int(self.parameters["frozen"])
        _wake(net, frozen, still=bool(self.parameters["keep_statistics"]))
        optimizer = torch.optim.AdamW(_groups(net, encoder, heads), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [g["lr"] for g in optimizer.param_groups], total, pct_start=_WARM_UP
        )
        losses = Losses(pictures, len(self.classes), float(self.parameters["focus"]))
        for number in range(total):
            if number % batches == 0:
                order = pictures.even(rng)
            rows = order[(number % batches) * batch :][:batch]
            some = pictures.where(rows)
            pixels, mask = _varied(some, float(self.parameters["light"]), rng)
            kind, found = net(pixels)
            loss = losses(kind, found[:, 0], some, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step(number + 1, total)
        net.eval()


def _groups(net: Inspector, rate: float, head_rate: float) -> list[dict[str, Any]]:
    """The encoder knows something already and moves slowly; the heads begin from nothing."""
    encoder = list(net.net.encoder.parameters())
    known = {id(p) for p in encoder}
    heads = [p for p in net.parameters() if id(p) not in known]
    moving = [p for p in encoder if p.requires_grad]
    return [{"params": moving, "lr": rate}, {"params": heads, "lr": head_rate}]


def _wake(net: Inspector, frozen: int, still: bool) -> None:
    """Begin training.

    Args:
        frozen: How many of the encoder's parts stay as they are, from the picture up.
        still: Whether the rest of it keeps its batch statistics.
    """
    net.train()
    net.requires_grad_(True)
    encoder = net.net.encoder
    for module in encoder.modules():
        if still and isinstance(module, nn.BatchNorm2d):
            module.eval()
    for part in _parts(encoder)[:frozen]:
        part.eval().requires_grad_(False)


def _parts(encoder: nn.Module) -> list[nn.Module]:
    """Stem, norms, stages or blocks, in the order a picture passes them."""
    lists = (nn.Sequential, nn.ModuleList)
    return [
        part
        for child in encoder.children()
        for part in (child if isinstance(child, lists) else (child,))
    ]


def _shown(pictures: Pictures, classes: int) -> npt.NDArray[np.int64]:
    """(C,) how many pictures of each class an epoch shows."""
    count = np.bincount(pictures.label, minlength=classes)
    if bad := int(count[1:].sum()):
        count[0] = min(count[0], bad)
    return count


class Losses:
    """Focal loss of the class, weighted by how rare it is, and BCE + Dice of the mask."""

    def __init__(self, pictures: Pictures, classes: int, focus: float) -> None:
        count = _shown(pictures, classes)
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


def _varied(pictures: Pictures, light: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flipped, moved and re-lit: (N, S, S, 3) uint8 and (N, S, S) float32.

    Args:
        light: Standard deviation of the logarithm of the gain; of gamma, three quarters of it.
    """
    pixels = torch.from_numpy(pictures.vectors).permute(0, 3, 1, 2).float()
    both = torch.cat([pixels, torch.from_numpy(pictures.mask)[:, None].float()], dim=1)
    grid = functional.affine_grid(_moves(len(pictures), rng), list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    gain, gamma = (
        torch.from_numpy(rng.lognormal(0.0, spread, (len(pixels), 1, 1, 1))).float()
        for spread in (light, 0.75 * light)
    )
    lit = 255 * gain * (moved[:, :3] / 255).clamp(0, 1) ** gamma
    pixels = lit.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels, (moved[:, 3] > 0.5).float()


def _moves(count: int, rng: np.random.Generator) -> Tensor:
    """(N, 2, 3) affine maps: mirrored, turned by quarters and a little more, scaled, shifted."""
    angle = rng.integers(0, 4, count) * np.pi / 2 + rng.normal(0.0, 0.05, count)
    scale = rng.uniform(0.85, 1.1, count)
    mirror = rng.choice([-1.0, 1.0], count)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = rng.uniform(-0.1, 0.1, (2, count))
    rows = np.stack([[cos * mirror, -sin, x], [sin * mirror, cos, y]])
    return torch.from_numpy(rows.transpose(2, 0, 1).copy()).float()
