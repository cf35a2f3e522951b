"""What the candidates share: training one network with two heads, its weights, its export.

Only training imports this module.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from services.cv_inspection.candidates import weights
from services.cv_inspection.candidates.augmentation import varied
from services.cv_inspection.candidates.losses import Losses
from services.cv_inspection.candidates.networks import Answers, Inspector, Network
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.serving.model import IMAGE, MASK, PROBABILITIES
from services.platform.models.candidates import Candidate, Floats
from services.platform.models.onnx import Floats32
from services.platform.progress import Step
from services.platform.torch.training import restore, saved

_FILE = "weights.pt"
_SCORED_AT_ONCE = 32
_WARM_UP = 0.15


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
        net = Answers(self._net).eval()
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
                Answers(self._net).eval(),
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
        count = train.shown(len(self.classes))
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
        batches = max(int(pictures.shown(len(self.classes)).sum()) // batch, 1)
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
            pixels, mask = varied(some, float(self.parameters["light"]), rng)
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
