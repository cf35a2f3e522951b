"""What candidates made of torch share: reading tabular columns, a training loop, the export.

Only training imports this module.
"""

import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from services.platform.models.candidates import Candidate, Examples, Floats
from services.platform.models.onnx import INPUT, OUTPUT, Floats32
from services.platform.progress import Step

# It tells of torchvision's operators, which nothing here uses.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)

_SCORED_AT_ONCE = 8_192
_LARGEST = 6.0
_FILE = "weights.pt"


class Tabular(nn.Module):
    """Columns of any scale to numbers near 0: signed log, standardised, missing values flagged.

    (N, F) -> (N, 2 F): the values, 0 where missing, then a 1 for each that is missing.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        logs = _signed_log(sample)
        there = ~torch.isnan(logs)
        count = there.sum(0).clamp(min=1)
        mean = torch.where(there, logs, 0.0).sum(0) / count
        variance = torch.where(there, (logs - mean) ** 2, 0.0).sum(0) / count
        self.register_buffer("mean", mean)
        self.register_buffer("spread", variance.sqrt() + 1e-3)

    def forward(self, columns: Tensor) -> Tensor:
        missing = torch.isnan(columns)
        values = (_signed_log(columns) - self.mean) / self.spread
        values = torch.where(missing, 0.0, values).clamp(-_LARGEST, _LARGEST)
        return torch.cat([values, missing.to(values.dtype)], dim=1)


def _signed_log(columns: Tensor) -> Tensor:
    return torch.sign(columns) * torch.log1p(columns.abs())


def perceptron(width: int, hidden: int) -> nn.Sequential:
    """(N, width) -> (N, 1), two hidden layers."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1),
    )  # fmt: skip


def inputs(examples: Examples, sets: tuple[str, ...]) -> tuple[Floats32, ...]:
    """A network's inputs: the vectors, then each set."""
    return (examples.vectors.astype(np.float32), *(examples.sets[name] for name in sets))


def sample(examples: Examples, most: int = 20_000) -> Tensor:
    """Evenly chosen vectors to standardise by."""
    every = max(len(examples) // most, 1)
    return torch.from_numpy(examples.vectors[::every].astype(np.float32))


def train(
    net: nn.Module,
    columns: tuple[Floats32, ...],
    positive: npt.NDArray[np.bool_],
    parameters: Mapping[str, Any],
    seed: int,
    step: Step,
) -> None:
    """Minimise the log loss of `net`'s logits by AdamW on shuffled mini-batches.

    Args:
        parameters: `epochs`, `batch`, `rate` (the peak of a one-cycle schedule), `decay`.
    """
    epochs, batch = int(parameters["epochs"]), int(parameters["batch"])
    rng = np.random.default_rng(seed)
    batches = max(len(positive) // batch, 1)
    total = epochs * batches
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=float(parameters["decay"]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, float(parameters["rate"]), total_steps=total
    )
    target = positive.astype(np.float32)
    net.train()
    for epoch in range(epochs):
        order = rng.permutation(len(positive))
        for number in range(batches):
            rows = order[number * batch : (number + 1) * batch]
            logits = net(*(torch.from_numpy(_trimmed(c[rows])) for c in columns))
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(target[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step(epoch * batches + number + 1, total)
    net.eval()


def _trimmed(rows: Floats32) -> Floats32:
    """Sets without the columns that nothing in the batch fills; vectors as they are."""
    if rows.ndim < 3:
        return rows
    filled = np.nonzero((rows[..., 0] >= 0).any(axis=0))[0]
    return rows[:, : int(filled.max(initial=0)) + 1]


def scores(net: nn.Module, columns: tuple[Floats32, ...]) -> Floats:
    """Probabilities (N,)."""
    parts = []
    with torch.no_grad():
        for begin in range(0, len(columns[0]), _SCORED_AT_ONCE):
            some = (torch.from_numpy(c[begin : begin + _SCORED_AT_ONCE]) for c in columns)
            parts.append(torch.sigmoid(net(*some)).double().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


class _Probability(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *columns: Tensor) -> Tensor:
        probability: Tensor = torch.sigmoid(self.net(*columns))
        return probability


def export(net: nn.Module, width: int, sets: Mapping[str, int]) -> bytes:
    """The network as an ONNX file; rows and the sizes of sets stay open.

    Args:
        width: Columns of `features`. sets: Width of the last axis of each set.
    """
    examples = [torch.zeros(3, width), *(torch.zeros(3, 5, k) for k in sets.values())]
    rows = torch.export.Dim("rows")
    shapes = [{0: rows}, *({0: rows, 1: torch.export.Dim(f"{name}_count")} for name in sets)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts against each other
        program = torch.onnx.export(
            _Probability(net).eval(),
            tuple(examples),
            input_names=[INPUT, *sets],
            output_names=[OUTPUT],
            dynamic_shapes=(tuple(shapes),),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    data: bytes = program.model_proto.SerializeToString()
    onnx.checker.check_model(data)
    return data


def saved(net: nn.Module) -> bytes:
    """A network's weights, for `restore`."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return buffer.getvalue()


def restore(net: nn.Module, data: bytes) -> None:
    """Give a network weights that `saved` kept."""
    net.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    net.eval()


class NeuralCandidate(Candidate):
    """A candidate that is one network over its features and sets.

    Attributes:
        set_widths: Columns of each set it asks for.
    """

    set_widths: ClassVar[Mapping[str, int]] = {}

    _net: nn.Module

    @abstractmethod
    def network(self, sample: Tensor) -> nn.Module:
        """An untrained network: (N, F) features and the sets -> (N,) logits.

        Args:
            sample: (S, F) vectors to standardise by.
        """

    def fit(self, train: Examples, validation: Examples, seed: int, step: Step) -> None:
        """Train for a fixed number of epochs; the validation set chooses only the threshold."""
        torch.manual_seed(seed)
        self._net = self.network(sample(train))
        self._train(train, self.parameters, seed, step)

    def fit_more(self, train: Examples, seed: int, step: Step) -> None:
        """Train on from the present weights, for `more_epochs` at a tenth of the rate."""
        torch.manual_seed(seed)
        epochs, rate = self.parameters["more_epochs"], float(self.parameters["rate"]) / 10
        self._train(train, {**self.parameters, "epochs": epochs, "rate": rate}, seed, step)

    def score(self, examples: Examples) -> Floats:
        """Probabilities by torch, (N,)."""
        return scores(self._net, inputs(examples, self.sets))

    def export(self) -> bytes:
        """The network, with the number of rows and the sizes of the sets left open."""
        return export(self._net, len(self.features), self.set_widths)

    def save(self, folder: Path) -> None:
        """Keep the weights."""
        (folder / _FILE).write_bytes(saved(self._net))

    def load(self, folder: Path) -> None:
        """Take up kept weights."""
        self._net = self.network(torch.zeros(1, len(self.features)))
        restore(self._net, (folder / _FILE).read_bytes())

    def _train(
        self, examples: Examples, parameters: Mapping[str, Any], seed: int, step: Step
    ) -> None:
        columns = inputs(examples, self.sets)
        train(self._net, columns, examples.positive, parameters, seed, step)
