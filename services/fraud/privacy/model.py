"""The network that the banks train together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from services.fraud.privacy.rows import Rows
from services.platform.torch.tabular import TabularNetwork


def new_network(public: Rows, hidden: int, seed: int) -> TabularNetwork:
    """An untrained network, normalised by rows that every bank may see."""
    torch.manual_seed(seed)
    return TabularNetwork(torch.from_numpy(public.vectors), hidden)


def normalisation(net: TabularNetwork) -> dict[str, bytes]:
    """Mean and spread of each column, as a message's configuration holds them."""
    buffers = {"mean": net.tabular.mean, "spread": net.tabular.spread}
    return {name: buffer.numpy().tobytes() for name, buffer in buffers.items()}


def network(config: Mapping[str, Any]) -> TabularNetwork:
    """The network that a round's configuration describes, its weights still to be set."""
    torch.set_num_threads(1)  # a processor a bank
    columns = len(str(config["names"]).split(","))
    net = TabularNetwork(torch.zeros(1, columns), int(config["hidden"]))
    for name in ("mean", "spread"):
        values = np.frombuffer(config[name], dtype=np.float32).copy()
        setattr(net.tabular, name, torch.from_numpy(values))
    return net
