"""DeepSets: the items of the cart as a set, together with the tabular features.

An item is embedded by its category and price, items are pooled by sum and by maximum, and the
pools are concatenated with the tabular features. Neither pool depends on the order of the items, so
the score does not either.

Source: Zaheer et al., "Deep Sets", NeurIPS 2017, theorem 2.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features.request import CATEGORY_BUCKETS, ITEM_FEATURES
from services.platform.torch.tabular import TabularNormalizer, mlp
from services.platform.torch.training import NeuralCandidate


class Network(nn.Module):
    """DeepSets over N carts of up to M items. Items with a category bucket below 0 are padding.

    The names of the submodules are keys of stored weights.
    """

    def __init__(self, sample: Tensor, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        embedding, hidden = int(parameters["category_embedding"]), int(parameters["item_hidden"])
        self.tabular = TabularNormalizer(sample)
        # Embedding 0 stands for padding; the mask in `forward` removes padded items.
        self.category = nn.Embedding(CATEGORY_BUCKETS + 1, embedding)
        self.item = nn.Sequential(
            nn.Linear(embedding + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        width = 2 * sample.shape[1] + 2 * hidden
        self.together = mlp(width, int(parameters["hidden"]))

    def forward(self, features: Tensor, items: Tensor) -> Tensor:
        """Features (N, F) and items (N, M, 2) to logits (N,)."""
        bucket, price = items[..., 0], items[..., 1:]
        present = (bucket >= 0).to(features.dtype).unsqueeze(-1)
        category = self.category((bucket + 1).to(torch.int64))
        embedded = self.item(torch.cat([category, torch.log1p(price)], dim=-1)) * present
        pooled = torch.cat([embedded.sum(dim=1), embedded.amax(dim=1)], dim=1)
        logits: Tensor = self.together(torch.cat([self.tabular(features), pooled], dim=1))
        return logits.squeeze(1)


@CANDIDATES.register
class DeepSets(NeuralCandidate):
    """A small network over the items of a cart and the tabular features."""

    name = "deepsets"
    role = "sees inside the cart"
    sets = ("items",)
    set_widths: ClassVar = {"items": len(ITEM_FEATURES)}

    def network(self, sample: Tensor) -> nn.Module:
        """The untrained network; `sample` (S, F) sets the mean and spread of each column."""
        return Network(sample, self.parameters)
