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
from typing import Any

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import GRAPH, GRAPH_SIZE, PLACES
from services.platform.torch import training as neural
from services.platform.torch.training import NeuralCandidate


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
class GNN(NeuralCandidate):
    """A small network over the places, which are given, and the tabular features."""

    name = "gnn"
    role = "sees who keeps company with whom"
    groups = ("graph",)

    def network(self, sample: Tensor) -> nn.Module:
        """The head, standardising by a sample of vectors."""
        return Head(sample, self.parameters)
