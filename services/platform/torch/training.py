"""The training loop of torch networks, their weights, and candidates that are one network."""

import io
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from services.platform.models.candidates import Candidate, Examples
from services.platform.progress import ProgressCallback
from services.platform.torch.export import export_tabular
from services.platform.torch.tabular import network_inputs, sample_rows
from services.platform.types import Booleans, Floats, Floats32

_PREDICTION_BATCH = 2_048
_WEIGHTS_FILE = "weights.pt"


def minimise(
    losses: Iterable[Tensor],
    groups: list[dict[str, Any]],
    weight_decay: float,
    total: int,
    step: ProgressCallback,
    warm_up: float = 0.3,
) -> None:
    """Minimise losses by AdamW, one step for each, on a one-cycle schedule.

    Args:
        losses: `total` scalars. Each is computed when it is asked for, after the step before.
        groups: The parameters, as torch's optimisers take them: `params`, and `lr`, the peak of
            their learning rate.
        step: Called with (done, total) steps.
        warm_up: Share of the steps in which the learning rate rises.

    Source: Smith and Topin, "Super-Convergence", 2018.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=total, pct_start=warm_up
    )
    for done, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step(done, total)


def train_network(
    net: nn.Module,
    columns: tuple[Floats32, ...],
    positive: Booleans,
    parameters: Mapping[str, Any],
    seed: int,
    step: ProgressCallback,
    weight: Floats | None = None,
) -> None:
    """Minimise the log loss of `net`'s logits on shuffled mini-batches.

    Args:
        columns: Its inputs, each (N, ...).
        positive: (N,) labels.
        parameters: `epochs`, `batch`, `rate` (the peak of a one-cycle schedule), `decay`.
        step: Called with (done, total) mini-batches.
        weight: (N,) how often each label counts; None: once.
    """
    epochs, batch = int(parameters["epochs"]), int(parameters["batch"])
    batches = max(len(positive) // batch, 1)
    target = positive.astype(np.float32)
    counted = np.ones_like(target) if weight is None else weight.astype(np.float32)

    def losses() -> Iterator[Tensor]:
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            order = rng.permutation(len(positive))
            for number in range(batches):
                rows = order[number * batch : (number + 1) * batch]
                logits = net(*(torch.from_numpy(_trim_padding(c[rows])) for c in columns))
                yield nn.functional.binary_cross_entropy_with_logits(
                    logits, torch.from_numpy(target[rows]), torch.from_numpy(counted[rows])
                )

    net.train()
    groups = [{"params": net.parameters(), "lr": float(parameters["rate"])}]
    minimise(losses(), groups, float(parameters["decay"]), epochs * batches, step)
    net.eval()


def _trim_padding(rows: Floats32) -> Floats32:
    """Sets (N, M, K) without trailing items that are padding in every row; vectors as they are."""
    if rows.ndim < 3:
        return rows
    filled = np.nonzero((rows[..., 0] >= 0).any(axis=0))[0]
    return rows[:, : int(filled.max(initial=0)) + 1]


def predict(net: nn.Module, columns: tuple[Floats32, ...]) -> Floats:
    """Probabilities (N,) of inputs (N, ...)."""
    parts = []
    with torch.no_grad():
        for begin in range(0, len(columns[0]), _PREDICTION_BATCH):
            batch = (torch.from_numpy(c[begin : begin + _PREDICTION_BATCH]) for c in columns)
            parts.append(torch.sigmoid(net(*batch)).double().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def dump_weights(net: nn.Module) -> bytes:
    """A network's weights, for `load_weights`."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return buffer.getvalue()


def load_weights(net: nn.Module, data: bytes) -> None:
    """Load weights of `dump_weights` into a network, and put it into evaluation mode."""
    net.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    net.eval()


class NeuralCandidate(Candidate):
    """A candidate that is one network over its features and sets.

    Attributes:
        set_widths: By name of a set it needs, the width of its last axis.
    """

    set_widths: ClassVar[Mapping[str, int]] = {}

    _net: nn.Module

    @abstractmethod
    def network(self, sample: Tensor) -> nn.Module:
        """An untrained network: (N, F) features and the sets -> (N,) logits.

        Args:
            sample: (S, F) vectors for normalisation.
        """

    def fit(self, train: Examples, validation: Examples, seed: int, step: ProgressCallback) -> None:
        """Train for a fixed number of epochs; the validation set only chooses the threshold."""
        torch.manual_seed(seed)
        self._net = self.network(sample_rows(train))
        self._train(train, self.parameters, seed, step)

    def fit_more(self, train: Examples, seed: int, step: ProgressCallback) -> None:
        """Continue from the present weights, for `more_epochs` at a tenth of the rate."""
        torch.manual_seed(seed)
        epochs, rate = self.parameters["more_epochs"], float(self.parameters["rate"]) / 10
        self._train(train, {**self.parameters, "epochs": epochs, "rate": rate}, seed, step)

    def score(self, examples: Examples) -> Floats:
        """Probabilities (N,) by torch."""
        return predict(self._net, network_inputs(examples, self.sets))

    def export(self) -> bytes:
        """The ONNX file, with dynamic numbers of rows and of items in the sets."""
        return export_tabular(self._net, len(self.features), self.set_widths)

    def save(self, folder: Path) -> None:
        """Write the weights."""
        (folder / _WEIGHTS_FILE).write_bytes(dump_weights(self._net))

    def load(self, folder: Path) -> None:
        """Read weights that `save` wrote."""
        self._net = self.network(torch.zeros(1, len(self.features)))
        load_weights(self._net, (folder / _WEIGHTS_FILE).read_bytes())

    def _train(
        self, examples: Examples, parameters: Mapping[str, Any], seed: int, step: ProgressCallback
    ) -> None:
        columns = network_inputs(examples, self.sets)
        train_network(
            self._net, columns, examples.positive, parameters, seed, step, examples.weight
        )
