"""Inputs and layers of networks on tabular data."""

import numpy as np
import torch
from torch import Tensor, nn

from services.platform.models.candidates import Examples
from services.platform.types import Floats32

_MAX_ABS = 6.0


class TabularNormalizer(nn.Module):
    """Normalises columns of any scale: signed log, standardised, missing values flagged.

    (N, F) -> (N, 2 F): the values, 0 where missing, then for each a 1 if it is missing.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, sample: Tensor) -> None:
        """Take mean and deviation of (S, F) sampled rows."""
        super().__init__()
        logs = _signed_log(sample)
        present = ~torch.isnan(logs)
        count = present.sum(0).clamp(min=1)
        mean = torch.where(present, logs, 0.0).sum(0) / count
        variance = torch.where(present, (logs - mean) ** 2, 0.0).sum(0) / count
        self.register_buffer("mean", mean)
        self.register_buffer("spread", variance.sqrt() + 1e-3)

    def forward(self, columns: Tensor) -> Tensor:
        """(N, F) -> (N, 2 F)."""
        missing = torch.isnan(columns)
        values = (_signed_log(columns) - self.mean) / self.spread
        values = torch.where(missing, 0.0, values).clamp(-_MAX_ABS, _MAX_ABS)
        return torch.cat([values, missing.to(values.dtype)], dim=1)


def _signed_log(columns: Tensor) -> Tensor:
    return torch.sign(columns) * torch.log1p(columns.abs())


def mlp(width: int, hidden: int) -> nn.Sequential:
    """A multilayer perceptron with two hidden layers, (N, width) -> (N, 1)."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1),
    )  # fmt: skip


class TabularNetwork(nn.Module):
    """A multilayer perceptron over normalised columns, (N, F) -> logits (N,).

    The names of the submodules are keys of stored weights.
    """

    def __init__(self, sample: Tensor, hidden: int) -> None:
        super().__init__()
        self.tabular = TabularNormalizer(sample)
        self.together = mlp(2 * sample.shape[1], hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F) to logits (N,)."""
        logits: Tensor = self.together(self.tabular(features))
        return logits.squeeze(1)


def network_inputs(examples: Examples, sets: tuple[str, ...]) -> tuple[Floats32, ...]:
    """A network's inputs: the vectors (N, F), then each set (N, M, K)."""
    return (
        examples.vectors.astype(np.float32, copy=False),
        *(examples.sets[name] for name in sets),
    )


def sample_rows(examples: Examples, max_rows: int = 20_000) -> Tensor:
    """Evenly spaced vectors, (about `max_rows`, F), for normalisation."""
    every = max(len(examples) // max_rows, 1)
    return torch.from_numpy(examples.vectors[::every].astype(np.float32))
