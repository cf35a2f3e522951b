"""GNN: where the parties stand in the graph of who buys where, beside the tabular features.

A graph network (`encoder.py`) places every customer, merchant, device and address overnight; by
day a small head scores the four places and the tabular features of one transaction. The head also
gets the products of the customer's place with the other three: a dot product says whether two
parties belong together, which neither place says alone.

A party no night has seen has no place: its values are missing, and the head is told so.

Source: Hamilton et al., "Inductive Representation Learning on Large Graphs" (GraphSAGE), NeurIPS
2017; the split into places by night and a head by day is that of NVIDIA's fraud blueprint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features import GRAPH, GRAPH_SIZE, PLACES
from services.skeleton import neural
from services.skeleton.candidates import Candidate, Examples, Floats
from services.skeleton.progress import Step

_FILE = "gnn.pt"


class Head(nn.Module):
    """(N, F) features, the last of them the places -> (N,) logits."""

    def __init__(self, sample: Tensor, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.columns = neural.Tabular(sample)
        width = 2 * sample.shape[1] + (len(GRAPH) - 1) * GRAPH_SIZE
        self.together = neural.perceptron(width, int(parameters["hidden"]))

    def forward(self, features: Tensor) -> Tensor:
        placed = features[:, -len(PLACES) :]
        placed = torch.where(torch.isnan(placed), 0.0, placed)
        customer, *others = torch.split(placed, GRAPH_SIZE, dim=1)
        products = [customer * other for other in others]
        logits: Tensor = self.together(torch.cat([self.columns(features), *products], dim=1))
        return logits.squeeze(1)


@CANDIDATES.register
class GNN(Candidate):
    """A small network over the places and the tabular features."""

    name = "gnn"
    role = "sees who keeps company with whom"
    groups = ("graph",)

    _net: Head

    def fit(self, train: Examples, validation: Examples, seed: int, step: Step) -> None:
        """Train the head for a fixed number of epochs; the places are given."""
        torch.manual_seed(seed)
        self._net = Head(neural.sample(train), self.parameters)
        self._train(train, self.parameters, seed, step)

    def fit_more(self, train: Examples, seed: int, step: Step) -> None:
        """Train the head on from its present weights, for `more_epochs` at a tenth of the rate."""
        torch.manual_seed(seed)
        epochs, rate = self.parameters["more_epochs"], float(self.parameters["rate"]) / 10
        self._train(train, {**self.parameters, "epochs": epochs, "rate": rate}, seed, step)

    def score(self, examples: Examples) -> Floats:
        """Probabilities by torch, (N,)."""
        return neural.scores(self._net, neural.inputs(examples, ()))

    def export(self) -> bytes:
        """The head: the places come with the features."""
        return neural.export(self._net, len(self.features), {})

    def save(self, folder: Path) -> None:
        """Keep the head's weights; the encoder's are kept with the places."""
        (folder / _FILE).write_bytes(neural.saved(self._net))

    def load(self, folder: Path) -> None:
        """Take up kept weights."""
        self._net = Head(torch.zeros(1, len(self.features)), self.parameters)
        neural.restore(self._net, (folder / _FILE).read_bytes())

    def _train(self, train: Examples, parameters: Mapping[str, Any], seed: int, step: Step) -> None:
        columns = neural.inputs(train, ())
        neural.train(self._net, columns, train.positive, parameters, seed, step)
