"""The transaction graph: customers, merchants, devices and IP addresses as of one moment.

Edges join a customer with the other parties of their transactions: `pays` for the last 30 days,
`recent` for the last 7, `disputes` where the charge was disputed. `shares` joins two customers who
paid with the same device: most of a device's edges lead to its owner, and `shares` carries messages
from the other users only. The graph holds only what was known at the moment: no later purchases
and no later chargebacks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.spec import DAY
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import ENTITIES
from services.platform.types import Booleans, Floats, Floats32, Integers

CUSTOMER, *PARTIES = ENTITIES
RELATIONS = ("pays", "recent", "disputes")
WINDOW_DAYS, RECENT_DAYS, BUSY_DAYS = 30, 7, 3
NODE_INPUTS = 5
# Within a month, shared gateways connect most customers: IP addresses get a week of edges only.
SKIPPED = ("pays", "ip")
SHARES, SHARED = "shares", "device_id"
# A device with more customers than this is a shop terminal and carries no information on them.
MAX_SHARING = 20


@dataclass(frozen=True)
class TransactionLog:
    """N transactions and L chargebacks as columns, with numbered parties.

    Attributes:
        keys: By entity, the keys of its K parties.
        codes: By entity, (N,) index into its keys, -1 for none.
        seq: (N,) stream sequence.
        time: (N,) event time, seconds.
        amount: (N,) major units.
        chargeback_time: (L,) event time of the chargebacks, seconds.
        chargeback_codes: By entity, (L,) index into its keys, -1 for none.
    """

    keys: Mapping[str, np.ndarray]
    codes: Mapping[str, Integers]
    seq: Integers
    time: Floats
    amount: Floats
    chargeback_time: Floats
    chargeback_codes: Mapping[str, Integers]

    @classmethod
    def of(cls, transactions: pa.Table, labels: pa.Table) -> "TransactionLog":
        """Number the parties of the lake's transactions and labels."""
        frauds = labels.filter(labels["fraud"])
        count = len(transactions)
        keys, codes, chargeback_codes = {}, {}, {}
        for entity in ENTITIES:
            numbers, keys[entity] = _numbered(transactions[entity], frauds[entity])
            codes[entity], chargeback_codes[entity] = numbers[:count], numbers[count:]
        return cls(
            keys=keys,
            codes=codes,
            seq=transactions["seq"].to_numpy(),
            time=event_times(transactions),
            amount=transactions["amount_minor"].to_numpy() / 100.0,
            chargeback_time=event_times(frauds),
            chargeback_codes=chargeback_codes,
        )

    def within(self, begin: float, end: float) -> Integers:
        """Indices of the transactions with begin <= time < end (seconds)."""
        return np.nonzero((self.time >= begin) & (self.time < end))[0]


def _numbered(*columns: pa.ChunkedArray) -> tuple[Integers, np.ndarray]:
    """Columns in a row as numbers of their keys, -1 for none, and the keys by number.

    In Arrow, because Python's strings take several times the memory.
    """
    # A column without any key has no type of its own.
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    encoded = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return numbers, encoded.dictionary.to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class Edges:
    """Edges as a compressed sparse row matrix of receivers by senders.

    Attributes:
        indptr: (receivers + 1,). Node i receives from `indices[indptr[i]:indptr[i + 1]]`.
        indices: (edges,) sending nodes.
        senders: Number of possible sending nodes.
    """

    indptr: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int32]
    senders: int


@dataclass(frozen=True)
class GraphSnapshot:
    """The graph as of one moment.

    Attributes:
        at: Event time, seconds.
        last_seq: Sequence of the last transaction before `at`, 0 for none.
        nodes: By entity, (K, NODE_INPUTS).
        has_edge: By entity, (K,) whether a node has an edge.
        edges: By (sending entity, relation, receiving entity).
    """

    at: float
    last_seq: int
    nodes: Mapping[str, Floats32]
    has_edge: Mapping[str, Booleans]
    edges: Mapping[tuple[str, str, str], Edges]


def graph_snapshot(log: TransactionLog, at: float) -> GraphSnapshot:
    """The graph as known at event time `at` (seconds)."""
    past = log.within(at - WINDOW_DAYS * DAY, at)
    disputes = np.nonzero(
        (log.chargeback_time < at) & (log.chargeback_time >= at - WINDOW_DAYS * DAY)
    )[0]
    recent = past[log.time[past] >= at - RECENT_DAYS * DAY]
    pairs = {
        "pays": {e: log.codes[e][past] for e in ENTITIES},
        "recent": {e: log.codes[e][recent] for e in ENTITIES},
        "disputes": {e: log.chargeback_codes[e][disputes] for e in ENTITIES},
    }
    edges: dict[tuple[str, str, str], Edges] = {}
    for party in PARTIES:
        for relation in RELATIONS:
            if (relation, party) != SKIPPED:
                edges.update(_both_ways(log, relation, party, pairs[relation]))
    edges[CUSTOMER, SHARES, CUSTOMER] = _sharing(log, past)
    nodes = {e: _node_inputs(log, e, at, past, pairs["disputes"][e]) for e in ENTITIES}
    # The first input counts transactions, the third disputes.
    has_edge = {e: (inputs[:, 0] > 0) | (inputs[:, 2] > 0) for e, inputs in nodes.items()}
    return GraphSnapshot(at, int(log.seq[past].max(initial=0)), nodes, has_edge, edges)


def relations() -> Iterator[tuple[str, str, str]]:
    """All (sending entity, relation, receiving entity)."""
    for party in PARTIES:
        for relation in RELATIONS:
            if (relation, party) != SKIPPED:
                yield CUSTOMER, relation, party
                yield party, relation, CUSTOMER
    yield CUSTOMER, SHARES, CUSTOMER


def _both_ways(
    log: TransactionLog, relation: str, party: str, codes: Mapping[str, Integers]
) -> dict[tuple[str, str, str], Edges]:
    customers, parties = codes[CUSTOMER], codes[party]
    present = parties >= 0
    count = max(len(log.keys[party]), 1)
    pair = np.unique(customers[present] * count + parties[present])
    customer, other = pair // count, pair % count
    return {
        (party, relation, CUSTOMER): _edges(log, party, other, CUSTOMER, customer),
        (CUSTOMER, relation, party): _edges(log, CUSTOMER, customer, party, other),
    }


def _sharing(log: TransactionLog, past: Integers) -> Edges:
    """Edges between different customers who paid with the same device."""
    used = pd.DataFrame({c: log.codes[c][past] for c in (CUSTOMER, SHARED)})
    used = used[used[SHARED] >= 0].drop_duplicates()
    users = used[SHARED].map(used[SHARED].value_counts())
    used = used[(users > 1) & (users <= MAX_SHARING)]
    pairs = used.merge(used, on=SHARED, suffixes=("", "_other"))[[CUSTOMER, f"{CUSTOMER}_other"]]
    pairs = pairs[pairs[CUSTOMER] != pairs[f"{CUSTOMER}_other"]].drop_duplicates()
    sender, receiver = pairs[f"{CUSTOMER}_other"].to_numpy(), pairs[CUSTOMER].to_numpy()
    return _edges(log, CUSTOMER, sender, CUSTOMER, receiver)


def _edges(
    log: TransactionLog, sending: str, sender: Integers, receiving: str, receiver: Integers
) -> Edges:
    order = np.lexsort((sender, receiver))
    count = np.bincount(receiver, minlength=len(log.keys[receiving]))
    indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    return Edges(indptr, sender[order].astype(np.int32), len(log.keys[sending]))


def _node_inputs(
    log: TransactionLog, entity: str, at: float, past: Integers, disputed: Integers
) -> Floats32:
    """(K, NODE_INPUTS): transactions in 30 and 3 days, disputes, dispute rate, mean log amount."""
    count = len(log.keys[entity])
    present = past[log.codes[entity][past] >= 0]
    busy = present[log.time[present] >= at - BUSY_DAYS * DAY]
    codes = log.codes[entity]
    bought = np.bincount(codes[present], minlength=count)
    recently = np.bincount(codes[busy], minlength=count)
    charged = np.bincount(disputed[disputed >= 0], minlength=count)
    amount = np.bincount(codes[present], np.log1p(log.amount[present]), minlength=count)
    inputs = [
        np.log1p(bought),
        np.log1p(recently),
        np.log1p(charged),
        10.0 * charged / (bought + 5.0),
        amount / np.maximum(bought, 1) / 4.0,
    ]
    return np.column_stack(inputs).astype(np.float32)
