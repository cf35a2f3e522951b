"""What a bank does in one round with a network: further training on its own rows.

The log loss by AdamW, with FedProx's term if it is asked for. Only the weights travel: the
normalisation comes with each message.

Sources: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017; Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from services.fraud.privacy.rows import Rows
from services.platform.torch.tabular import TabularNetwork
from services.platform.types import Floats32

# Rows that are normalised at once, which takes five times their own memory.
_AT_ONCE = 8192


def weights(net: TabularNetwork) -> list[Floats32]:
    """The weights that the banks average; the normalisation is agreed on and stays."""
    return [p.detach().numpy().copy() for p in net.together.parameters()]


def set_weights(net: TabularNetwork, values: list[Floats32]) -> None:
    """Set the weights of `weights`."""
    with torch.no_grad():
        for parameter, value in zip(net.together.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(np.array(value)))


def train(net: TabularNetwork, rows: Rows, config: Mapping[str, Any], seed: int) -> None:
    """Train for `local-epochs` passes over a bank's rows.

    Args:
        config: `local-epochs`, `batch`, `decay`, `proximal-mu` (none: FedAvg), and `rate`, which
            falls to its share `rate-falls-to` by the last of `rounds`.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    normalised, target = tensors(net, rows)
    head = net.together
    before = [p.detach().clone() for p in head.parameters()]
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=_rate(config), weight_decay=float(config["decay"])
    )
    head.train()
    for _ in range(int(config["local-epochs"])):
        for chosen in _batches(rng.permutation(len(rows)), int(config["batch"])):
            loss = _log_loss(head(normalised[chosen]).squeeze(1), target[chosen])
            loss = loss + _proximal(head, before, float(config.get("proximal-mu", 0.0)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.eval()


def _rate(config: Mapping[str, Any]) -> float:
    """The learning rate of a round."""
    done = (int(config["server-round"]) - 1) / max(int(config["rounds"]) - 1, 1)
    return float(config["rate"]) * float(config["rate-falls-to"]) ** done


def tensors(net: TabularNetwork, rows: Rows) -> tuple[Tensor, Tensor]:
    """A bank's rows for training: normalised columns (N, 2 F) and targets (N,)."""
    vectors = torch.from_numpy(rows.vectors)
    normalised = torch.empty(len(rows), 2 * vectors.shape[1])
    with torch.no_grad():
        for into, part in zip(normalised.split(_AT_ONCE), vectors.split(_AT_ONCE), strict=True):
            into.copy_(net.tabular(part))
    return normalised, torch.from_numpy(rows.fraud.astype(np.float32))


def _batches(order: Any, size: int) -> Iterator[Tensor]:
    for begin in range(0, max(len(order) - size, 0) + 1, size):
        yield torch.from_numpy(order[begin : begin + size])


def _log_loss(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, target)


def _proximal(head: nn.Module, before: list[Tensor], mu: float) -> Tensor | float:
    """FedProx's term: half of mu times the squared distance from the weights received."""
    if not mu:
        return 0.0
    pairs = zip(head.parameters(), before, strict=True)
    return mu / 2 * sum(((now - then) ** 2).sum() for now, then in pairs)
