"""The graph encoder: embeds every party of a graph snapshot by its neighbours and theirs.

Two layers of heterogeneous GraphSAGE, with a convolution for each relation and direction. Full
batch: a snapshot of 30 days has a few hundred thousand edges, so two cores do a pass in a tenth of
a second and no sampling is needed.

Its inputs are node statistics (`GraphSnapshot.nodes`), not identities, so it can embed parties and
graphs that training did not see: it runs every night on that night's graph and is trained again
only on demand.

Source: Hamilton et al., "Inductive Representation Learning on Large Graphs", NeurIPS 2017,
algorithm 1; a convolution a relation after Schlichtkrull et al., ESWC 2018.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from services.platform.torch import warnings_filter  # noqa: F401

# isort: split
import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, SAGEConv

from features.spec import DAY
from services.fraud.features.graph import (
    CUSTOMER,
    NODE_INPUTS,
    PARTIES,
    SHARES,
    Edges,
    GraphSnapshot,
    TransactionLog,
    graph_snapshot,
    relations,
)
from services.fraud.features.states import EMBEDDING_SIZE
from services.fraud.ingestion.events import ENTITIES
from services.platform.progress import ProgressCallback
from services.platform.torch.tabular import TabularNormalizer, mlp
from services.platform.torch.training import minimise
from services.platform.types import Booleans, Floats, Floats32, Integers

# Share of embeddings set to zero in training, so that the head learns to handle missing ones.
_DROP_PROBABILITY = 0.05
_SAMPLE_ROWS = 20_000
_STEPS_PER_DAY = 2
# Standardised inputs are clipped to this magnitude.
_CLIP = 10.0


class Encoder(nn.Module):
    """Embeds a snapshot: by entity, (K, EMBEDDING_SIZE) in -1..1.

    The names of its parts are keys of the stored weights.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = int(parameters["hidden"])
        self.scaled = nn.ModuleDict({e: _Standardize() for e in ENTITIES})
        self.enter = nn.ModuleDict({e: nn.Linear(NODE_INPUTS, hidden) for e in ENTITIES})
        self.first = _convolution(hidden, hidden)
        self.second = _convolution(hidden, EMBEDDING_SIZE)
        # Skip connection: the node's own inputs and its neighbours', past the second layer.
        self.past = nn.ModuleDict({e: nn.Linear(2 * hidden, EMBEDDING_SIZE) for e in ENTITIES})

    def forward(
        self, nodes: Mapping[str, Tensor], edges: Mapping[tuple[str, str, str], Tensor]
    ) -> dict[str, Tensor]:
        """Embed the nodes: by entity, (K, EMBEDDING_SIZE).

        Args:
            nodes: By entity, (K, NODE_INPUTS).
            edges: By relation, sparse (receivers, senders).
        """
        own = {e: torch.relu(self.enter[e](self.scaled[e](x))) for e, x in nodes.items()}
        near = {e: torch.relu(x) for e, x in self.first(own, edges).items()}
        far = self.second(near, edges)
        past = {e: self.past[e](torch.cat([own[e], near[e]], dim=1)) for e in far}
        return {e: torch.tanh(far[e] + past[e]) for e in far}


class _Standardize(nn.Module):
    """Standardises node inputs by mean and standard deviation.

    Chargebacks are rare, so the inputs that count them hardly vary; unscaled, the encoder would
    learn these most informative inputs last.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NODE_INPUTS))
        self.register_buffer("spread", torch.ones(NODE_INPUTS))

    def fit(self, nodes: Tensor) -> None:
        """Set mean and spread from (K, NODE_INPUTS) nodes."""
        if len(nodes) < 2:  # a data set without devices, for example
            return
        self.mean.copy_(nodes.mean(0))
        self.spread.copy_(nodes.std(0) + 1e-3)

    def forward(self, nodes: Tensor) -> Tensor:
        """(K, NODE_INPUTS) -> the same shape, clipped."""
        return ((nodes - self.mean) / self.spread).clamp(-_CLIP, _CLIP)


def _convolution(hidden: int, size: int) -> HeteroConv:
    """A layer: a sum over customers who share a device, a mean over all other neighbours.

    For a shared device the number of bad customers matters, elsewhere their share. Summing a
    month's purchases would hide the few who share and saturate the embedding.
    """
    convolutions = {
        (sender, relation, receiver): SAGEConv(
            (hidden, hidden), size, aggr="sum" if relation == SHARES else "mean"
        )
        for sender, relation, receiver in relations()
    }
    return HeteroConv(convolutions, aggr="sum")


class _TransactionScorer(nn.Module):
    """Scores transactions by the embeddings of their parties; used in training only.

    It is given the tabular features too, so that embeddings need not repeat them.
    """

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self.tabular = TabularNormalizer(sample)
        width = (2 * len(ENTITIES) - 1) * EMBEDDING_SIZE + 2 * sample.shape[1]
        self.head = mlp(width, 64)

    def forward(self, embeddings: Sequence[Tensor], rows: Tensor) -> Tensor:
        """(N,) logits from one (N, EMBEDDING_SIZE) per entity and (N, F) tabular features."""
        customer, *others = embeddings
        products = [customer * other for other in others]
        inputs = [customer, *others, *products, self.tabular(rows)]
        logits: Tensor = self.head(torch.cat(inputs, dim=1))
        return logits.squeeze(1)


@dataclass(frozen=True)
class EncoderExamples:
    """Training examples of the encoder, one per transaction of the log.

    Attributes:
        positive: (N,) whether the transaction is fraud.
        known: (N,) its row in `tabular`, -1 for none.
        tabular: (M, F) tabular features.
    """

    positive: Booleans
    known: Integers
    tabular: Floats | Floats32

    @classmethod
    def of(
        cls, log: TransactionLog, seqs: Integers, positive: Booleans, tabular: Floats | Floats32
    ) -> "EncoderExamples":
        """Align known outcomes and features with the log by sequence.

        Args:
            seqs: (M,) sequences of the transactions that are known.
            positive: (M,) whether each is fraud.
            tabular: (M, F) tabular features.
        """
        at = np.searchsorted(log.seq, seqs)
        outcome, known = np.zeros(len(log.seq), dtype=bool), np.full(len(log.seq), -1)
        outcome[at], known[at] = positive, np.arange(len(seqs))
        return cls(outcome, known, tabular)

    def features(self, rows: Integers) -> Tensor:
        """(n, F) tabular features of n transactions of the log, NaN where they are not known."""
        known = self.known[rows]
        found = self.tabular[known].astype(np.float32)
        found[known < 0] = np.nan
        return torch.from_numpy(found)


def train(
    log: TransactionLog,
    examples: EncoderExamples,
    midnights: Sequence[float],
    parameters: Mapping[str, Any],
    seed: int,
    step: ProgressCallback,
) -> Encoder:
    """Train to predict a day's frauds from the graph of the midnight before.

    Args:
        midnights: Beginnings of the days to train on, event time in seconds.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    # Graphs take half of the memory of their tensors, which are made in a millisecond.
    days = [(graph_snapshot(log, at), log.within(at, at + DAY)) for at in midnights]
    known = np.concatenate([rows for _, rows in days])
    sample = examples.features(known[:: max(len(known) // _SAMPLE_ROWS, 1)])
    encoder, scorer = Encoder(parameters), _TransactionScorer(sample)
    first_nodes, *_ = _tensors(days[0][0])
    for entity, layer in encoder.scaled.items():
        cast(_Standardize, layer).fit(first_nodes[entity])
    epochs = int(parameters["epochs"])
    total = epochs * len(days) * _STEPS_PER_DAY
    # One transaction in a hundred is fraud: without weights, rare scenarios are hardly learnt.
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(float(parameters["weight"])))

    def losses() -> Iterator[Tensor]:
        for (nodes, edges, has_edge), part in _passes(days, epochs, rng):
            embeddings = _gather(log, encoder(nodes, edges), has_edge, part)
            logits = scorer(embeddings, examples.features(part))
            yield loss_of(logits, torch.from_numpy(examples.positive[part].astype(np.float32)))

    weights = [*encoder.parameters(), *scorer.parameters()]
    groups = [{"params": weights, "lr": float(parameters["rate"])}]
    minimise(losses(), groups, float(parameters["decay"]), total, step)
    encoder.eval()
    return encoder


def _passes(
    days: Sequence[tuple[GraphSnapshot, Integers]], epochs: int, rng: np.random.Generator
) -> Iterator[tuple["_Tensors", Integers]]:
    """Batches: a midnight's graph and a part of its day's rows, shuffled in every epoch."""
    for _ in range(epochs):
        for number in rng.permutation(len(days)):
            graph, rows = days[number]
            tensors = _tensors(graph)
            for part in np.array_split(rng.permutation(rows), _STEPS_PER_DAY):
                yield tensors, part


def embed(encoder: Encoder, graph: GraphSnapshot) -> dict[str, Floats]:
    """By entity, (K, EMBEDDING_SIZE): the embeddings of a snapshot, NaN without an edge."""
    nodes, edges, _ = _tensors(graph)
    with torch.no_grad():
        found = encoder(nodes, edges)
    return {
        e: np.where(graph.has_edge[e][:, None], found[e].double().numpy(), np.nan) for e in ENTITIES
    }


def _gather(
    log: TransactionLog, found: Mapping[str, Tensor], has_edge: Mapping[str, Tensor], rows: Integers
) -> list[Tensor]:
    """The embeddings of the rows' parties; zeros without an edge, and for a random few."""
    embeddings = []
    for entity in (CUSTOMER, *PARTIES):
        codes = torch.from_numpy(log.codes[entity][rows])
        known = (codes >= 0) & has_edge[entity][codes] & (torch.rand(len(rows)) > _DROP_PROBABILITY)
        embeddings.append(found[entity][codes] * known.unsqueeze(1))
    return embeddings


_Tensors = tuple[dict[str, Tensor], dict[tuple[str, str, str], Tensor], dict[str, Tensor]]


def _tensors(graph: GraphSnapshot) -> _Tensors:
    nodes = {e: torch.from_numpy(x) for e, x in graph.nodes.items()}
    edges = {relation: _adjacency(e) for relation, e in graph.edges.items()}
    return nodes, edges, {e: torch.from_numpy(s) for e, s in graph.has_edge.items()}


def _adjacency(edges: Edges) -> Tensor:
    """A sparse (receivers, senders) matrix: PyG's `adj_t`."""
    size = (len(edges.indptr) - 1, edges.senders)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(
            torch.from_numpy(edges.indptr.astype(np.int64)),
            torch.from_numpy(edges.indices.astype(np.int64)),
            torch.ones(len(edges.indices)),
            size,
        )
