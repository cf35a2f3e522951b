"""DeepSets: what is in the cart, in whatever order, beside the tabular features.

An item is embedded by its category and price, items are pooled by sum and by maximum, and the
pool joins the tabular features. Neither pool depends on the order of the items, so neither does
the score.

Source: Zaheer et al., "Deep Sets", NeurIPS 2017, theorem 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features import BUCKETS, ITEMS
from services.skeleton import neural
from services.skeleton.candidates import Candidate, Examples, Floats
from services.skeleton.progress import Step

_FILE = "deepsets.pt"


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
class DeepSets(Candidate):
    """A small network over the cart's items and the tabular features."""

    name = "deepsets"
    role = "sees inside the cart"
    sets = ("items",)

    _net: Network

    def fit(self, train: Examples, validation: Examples, seed: int, step: Step) -> None:
        """Train for a fixed number of epochs; the validation set chooses only the threshold."""
        torch.manual_seed(seed)
        self._net = Network(neural.sample(train), self.parameters)
        self._train(train, self.parameters, seed, step)

    def fit_more(self, train: Examples, seed: int, step: Step) -> None:
        """Train on from the present weights, for `more_epochs` at a tenth of the rate."""
        torch.manual_seed(seed)
        epochs, rate = self.parameters["more_epochs"], float(self.parameters["rate"]) / 10
        self._train(train, {**self.parameters, "epochs": epochs, "rate": rate}, seed, step)

    def score(self, examples: Examples) -> Floats:
        """Probabilities by torch, (N,)."""
        return neural.scores(self._net, neural.inputs(examples, self.sets))

    def export(self) -> bytes:
        """The network, with the size of the cart left open."""
        return neural.export(self._net, len(self.features), {"items": len(ITEMS)})

    def save(self, folder: Path) -> None:
        """Keep the weights."""
        (folder / _FILE).write_bytes(neural.saved(self._net))

    def load(self, folder: Path) -> None:
        """Take up kept weights."""
        self._net = Network(torch.zeros(1, len(self.features)), self.parameters)
        neural.restore(self._net, (folder / _FILE).read_bytes())

    def _train(self, train: Examples, parameters: Mapping[str, Any], seed: int, step: Step) -> None:
        columns = neural.inputs(train, self.sets)
        neural.train(self._net, columns, train.positive, parameters, seed, step)
