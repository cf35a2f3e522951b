"""DeepSets: what is in the cart, in whatever order, beside the tabular features.

An item is embedded by its category and price, items are pooled by sum and by maximum, and the
pool joins the tabular features. Neither pool depends on the order of the items, so neither does
the score.

Source: Zaheer et al., "Deep Sets", NeurIPS 2017, theorem 2.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import BUCKETS, ITEMS
from services.platform.torch import training as neural
from services.platform.torch.training import NeuralCandidate


class Network(nn.Module):
    """(N, F) features and (N, M, 2) items -> (N,) logits. Items of a bucket below 0 are absent."""

    def __init__(self, sample: Tensor, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        embedded, hidden = int(parameters["embedded"]), int(parameters["item_hidden"])
        self.tabular = neural.Tabular(sample)
        # The first embedding belongs to absent items; their mask is what makes them vanish.
        self.category = nn.Embedding(BUCKETS + 1, embedded)
        self.item = nn.Sequential(
            nn.Linear(embedded + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        width = 2 * sample.shape[1] + 2 * hidden
        self.together = neural.perceptron(width, int(parameters["hidden"]))

    def forward(self, features: Tensor, items: Tensor) -> Tensor:
        bucket, price = items[..., 0], items[..., 1:]
        there = (bucket >= 0).to(features.dtype).unsqueeze(-1)
        category = self.category((bucket + 1).to(torch.int64))
        each = self.item(torch.cat([category, torch.log1p(price)], dim=-1)) * there
        pooled = torch.cat([each.sum(dim=1), each.amax(dim=1)], dim=1)
        logits: Tensor = self.together(torch.cat([self.tabular(features), pooled], dim=1))
        return logits.squeeze(1)


@CANDIDATES.register
class DeepSets(NeuralCandidate):
    """A small network over the cart's items and the tabular features."""

    name = "deepsets"
    role = "sees inside the cart"
    sets = ("items",)
    set_widths: ClassVar = {"items": len(ITEMS)}

    def network(self, sample: Tensor) -> nn.Module:
        """The network, standardising by a sample of vectors."""
        return Network(sample, self.parameters)
