"""GNN: embeddings of the transaction's parties in the purchase graph, plus the tabular features.

A graph network (`features/encoder.py`) embeds every customer, merchant, device and address each
night. Online, a small head scores the four embeddings and the tabular features of one transaction.
The head also gets the element-wise products of the customer's embedding with the other three: their
similarity shows whether two parties belong together, which one embedding alone does not.

A party that is new since the last night has no embedding: its values are missing, and the head gets
a flag for each missing value.

Source: Hamilton et al., "Inductive Representation Learning on Large Graphs" (GraphSAGE), NeurIPS
2017. Nightly embeddings with an online head follow NVIDIA's fraud detection blueprint.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import EMBEDDING_FEATURES, EMBEDDING_SIZE, EMBEDDINGS
from services.platform.torch.tabular import TabularNormalizer, mlp
from services.platform.torch.training import NeuralCandidate


class Head(nn.Module):
    """Scores features whose last columns are the four embeddings.

    The names of the submodules are keys of stored weights.
    """

    def __init__(self, sample: Tensor, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.columns = TabularNormalizer(sample)
        width = 2 * sample.shape[1] + (len(EMBEDDINGS) - 1) * EMBEDDING_SIZE
        self.together = mlp(width, int(parameters["hidden"]))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F) to logits (N,)."""
        embeddings = features[:, -len(EMBEDDING_FEATURES) :]
        embeddings = torch.where(torch.isnan(embeddings), 0.0, embeddings)
        customer, *others = torch.split(embeddings, EMBEDDING_SIZE, dim=1)
        products = [customer * other for other in others]
        logits: Tensor = self.together(torch.cat([self.columns(features), *products], dim=1))
        return logits.squeeze(1)


@CANDIDATES.register
class GNN(NeuralCandidate):
    """A small network over fixed embeddings and the tabular features."""

    name = "gnn"
    role = "sees who shops with whom"
    groups = ("graph",)

    def network(self, sample: Tensor) -> nn.Module:
        """The untrained head; `sample` (S, F) sets the mean and spread of each column."""
        return Head(sample, self.parameters)
