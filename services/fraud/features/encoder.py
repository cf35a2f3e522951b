"""The graph encoder: places every party of a snapshot, by who it deals with and who they deal with.

Two layers of heterogeneous GraphSAGE, a convolution for each relation and direction. Full batch:
a snapshot of 30 days has a few hundred thousand edges, so two cores do a pass in a tenth of a
second and no sampling is needed.

It knows no identities, only what a node does (`graph.Snapshot.nodes`), so it can place a party
that training never saw, in a graph it never saw: every night it is run on that night's graph, and
trained anew only when asked.

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

from features.spec import DAY, Booleans, Floats, Integers
from services.fraud.features.graph import (
    CUSTOMER,
    NODE_INPUTS,
    PARTIES,
    SHARES,
    Edges,
    Ledger,
    Snapshot,
    relations,
    snapshot,
)
from services.fraud.features.states import GRAPH_SIZE
from services.fraud.ingestion.events import ENTITIES
from services.platform.models.onnx import Floats32
from services.platform.progress import Step
from services.platform.torch import training as neural

# Some parties go without a place while training, so that a head learns what that means.
_HIDDEN = 0.05
_SAMPLE = 20_000
# Steps a day and epoch.
_PARTS = 2
_LARGEST = 10.0


class Encoder(nn.Module):
    """A snapshot -> by entity, (K, GRAPH_SIZE) places in -1..1."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = int(parameters["hidden"])
        self.scaled = nn.ModuleDict({e: _Scaled() for e in ENTITIES})
        self.enter = nn.ModuleDict({e: nn.Linear(NODE_INPUTS, hidden) for e in ENTITIES})
        self.first = _convolution(hidden, hidden)
        self.second = _convolution(hidden, GRAPH_SIZE)
        # What a node and its neighbours are stays visible beside what their neighbours are.
        self.past = nn.ModuleDict({e: nn.Linear(2 * hidden, GRAPH_SIZE) for e in ENTITIES})

    def forward(
        self, nodes: Mapping[str, Tensor], edges: Mapping[tuple[str, str, str], Tensor]
    ) -> dict[str, Tensor]:
        own = {e: torch.relu(self.enter[e](self.scaled[e](x))) for e, x in nodes.items()}
        near = {e: torch.relu(x) for e, x in self.first(own, edges).items()}
        far = self.second(near, edges)
        past = {e: self.past[e](torch.cat([own[e], near[e]], dim=1)) for e in far}
        return {e: torch.tanh(far[e] + past[e]) for e in far}


class _Scaled(nn.Module):
    """Node inputs by their mean and spread.

    Chargebacks are rare, so their inputs hardly vary: as they are, they would be learnt last of
    all, and they are what matters.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NODE_INPUTS))
        self.register_buffer("spread", torch.ones(NODE_INPUTS))

    def learn(self, nodes: Tensor) -> None:
        if len(nodes) < 2:  # data without devices, say
            return
        self.mean.copy_(nodes.mean(0))
        self.spread.copy_(nodes.std(0) + 1e-3)

    def forward(self, nodes: Tensor) -> Tensor:
        return ((nodes - self.mean) / self.spread).clamp(-_LARGEST, _LARGEST)


def _convolution(hidden: int, size: int) -> HeteroConv:
    """A layer. Of those who share a phone it matters how many are bad; of the rest, what share.

    A sum over a month's purchases would drown the few who share, and saturate the place.
    """
    convolutions = {
        (sender, relation, receiver): SAGEConv(
            (hidden, hidden), size, aggr="sum" if relation == SHARES else "mean"
        )
        for sender, relation, receiver in relations()
    }
    return HeteroConv(convolutions, aggr="sum")


class _Pairing(nn.Module):
    """Scores transactions by the places of their parties; used in training only.

    It sees the tabular features too: a place need not say what the rows say already.
    """

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self.columns = neural.Tabular(sample)
        width = (2 * len(ENTITIES) - 1) * GRAPH_SIZE + 2 * sample.shape[1]
        self.together = neural.perceptron(width, 64)

    def forward(self, places: Sequence[Tensor], rows: Tensor) -> Tensor:
        customer, *others = places
        products = [customer * other for other in others]
        seen = [customer, *others, *products, self.columns(rows)]
        logits: Tensor = self.together(torch.cat(seen, dim=1))
        return logits.squeeze(1)


@dataclass(frozen=True)
class Lessons:
    """What the encoder learns from.

    Attributes:
        positive: (N,) outcome of the ledger's transactions.
        tabular: (N, F) their tabular features, NaN where they are not known.
    """

    positive: Booleans
    tabular: Floats32

    @classmethod
    def of(cls, ledger: Ledger, seqs: Integers, positive: Booleans, tabular: Floats) -> "Lessons":
        """Spread what is known of some transactions, by their sequences, over the ledger."""
        at = np.searchsorted(ledger.seq, seqs)
        outcome = np.zeros(len(ledger.seq), dtype=bool)
        outcome[at] = positive
        rows = np.full((len(ledger.seq), tabular.shape[1]), np.nan, dtype=np.float32)
        rows[at] = tabular
        return cls(outcome, rows)


def train(
    ledger: Ledger,
    lessons: Lessons,
    midnights: Sequence[float],
    parameters: Mapping[str, Any],
    seed: int,
    step: Step,
) -> Encoder:
    """Learn to tell a day's frauds by the graph of the midnight before.

    Args:
        lessons: Of the ledger's transactions.
        midnights: Beginnings of the days to learn from, event time in seconds.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    days = [(_tensors(snapshot(ledger, at)), ledger.within(at, at + DAY)) for at in midnights]
    known = np.concatenate([rows for _, rows in days])
    sample = torch.from_numpy(lessons.tabular[known[:: max(len(known) // _SAMPLE, 1)]])
    encoder, pairing = Encoder(parameters), _Pairing(sample)
    first_nodes, *_ = days[0][0]
    for entity, scaled in encoder.scaled.items():
        cast(_Scaled, scaled).learn(first_nodes[entity])
    epochs = int(parameters["epochs"])
    total = epochs * len(days) * _PARTS
    # Frauds are one in a hundred: unweighted, what is rarest among them is hardly learnt.
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(float(parameters["weight"])))
    weights = [*encoder.parameters(), *pairing.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=float(parameters["decay"]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, float(parameters["rate"]), total_steps=total
    )
    for done, ((nodes, edges, seen), part) in enumerate(_passes(days, epochs, rng), start=1):
        places = _gathered(ledger, encoder(nodes, edges), seen, part)
        logits = pairing(places, torch.from_numpy(lessons.tabular[part]))
        loss = loss_of(logits, torch.from_numpy(lessons.positive[part].astype(np.float32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step(done, total)
    encoder.eval()
    return encoder


def _passes(
    days: Sequence[tuple["_Tensors", Integers]], epochs: int, rng: np.random.Generator
) -> Iterator[tuple["_Tensors", Integers]]:
    """A midnight's graph and a part of its day's rows, the days shuffled each time."""
    for _ in range(epochs):
        for number in rng.permutation(len(days)):
            graph, rows = days[number]
            for part in np.array_split(rng.permutation(rows), _PARTS):
                yield graph, part


def place(encoder: Encoder, graph: Snapshot) -> dict[str, Floats]:
    """By entity, (K, GRAPH_SIZE): the places in a snapshot, NaN for nodes without any edge."""
    nodes, edges, _ = _tensors(graph)
    with torch.no_grad():
        found = encoder(nodes, edges)
    return {
        e: np.where(graph.seen[e][:, None], found[e].double().numpy(), np.nan) for e in ENTITIES
    }


def _gathered(
    ledger: Ledger, found: Mapping[str, Tensor], seen: Mapping[str, Tensor], rows: Integers
) -> list[Tensor]:
    """The places of some transactions' parties; zeros for those unseen, and for a few others."""
    places = []
    for entity in (CUSTOMER, *PARTIES):
        codes = torch.from_numpy(ledger.codes[entity][rows])
        known = (codes >= 0) & seen[entity][codes] & (torch.rand(len(rows)) > _HIDDEN)
        places.append(found[entity][codes] * known.unsqueeze(1))
    return places


_Tensors = tuple[dict[str, Tensor], dict[tuple[str, str, str], Tensor], dict[str, Tensor]]


def _tensors(graph: Snapshot) -> _Tensors:
    nodes = {e: torch.from_numpy(x.astype(np.float32)) for e, x in graph.nodes.items()}
    edges = {relation: _adjacency(e) for relation, e in graph.edges.items()}
    return nodes, edges, {e: torch.from_numpy(s) for e, s in graph.seen.items()}


def _adjacency(edges: Edges) -> Tensor:
    """Receivers by senders, sparse: what PyG calls `adj_t`."""
    size = (len(edges.begin) - 1, edges.senders)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(
            torch.from_numpy(edges.begin),
            torch.from_numpy(edges.sender),
            torch.ones(len(edges.sender)),
            size,
        )
