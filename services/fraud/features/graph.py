"""Who buys where: the graph of customers, merchants, devices and addresses as of one moment.

An edge joins a customer to whoever they dealt with: `pays` for the last 30 days, `recent` for the
last 7, `disputes` where the charge was disputed. `shares` joins two customers who paid with one
device: a device's neighbours are its owner first of all, and by these edges the owner hears of the
others alone. Only what was known at the moment is in it: a purchase of the day itself is not, nor a
chargeback that came later.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from features.spec import DAY, Booleans, Floats, Integers
from services.fraud.ingestion.events import ENTITIES, seconds

CUSTOMER, *PARTIES = ENTITIES
RELATIONS = ("pays", "recent", "disputes")
MEMORY_DAYS, RECENT_DAYS, BUSY_DAYS = 30, 7, 3
NODE_INPUTS = 5
# Shared gateways join everybody to everybody within a month: only a week of addresses is used.
SKIPPED = ("pays", "ip")
SHARES, SHARED = "shares", "device_id"
# A device of more customers than this is a counter's, and says nothing of any of them.
MOST_SHARING = 20


@dataclass(frozen=True)
class Ledger:
    """N transactions and L chargebacks as columns, parties numbered.

    Attributes:
        names: By entity, the keys. codes: By entity, (N,) index into them, -1 for none.
        seq, time: (N,) sequence and event time, seconds. amount: (N,) major units.
        disputed_at: (L,) event time of the chargebacks. disputed: By entity, (L,) their parties.
    """

    names: Mapping[str, np.ndarray]
    codes: Mapping[str, Integers]
    seq: Integers
    time: Floats
    amount: Floats
    disputed_at: Floats
    disputed: Mapping[str, Integers]

    @classmethod
    def of(cls, transactions: pa.Table, labels: pa.Table) -> "Ledger":
        """Number the parties of the lake's transactions and labels."""
        frauds = labels.filter(labels["fraud"])
        count = len(transactions)
        names, codes, disputed = {}, {}, {}
        for entity in ENTITIES:
            keys = [t[entity].to_numpy(zero_copy_only=False) for t in (transactions, frauds)]
            numbers, names[entity] = pd.factorize(np.concatenate(keys))
            codes[entity], disputed[entity] = numbers[:count], numbers[count:]
        return cls(
            names=names,
            codes=codes,
            seq=transactions["seq"].to_numpy(),
            time=_times(transactions),
            amount=transactions["amount_minor"].to_numpy() / 100.0,
            disputed_at=_times(frauds),
            disputed=disputed,
        )

    def within(self, begin: float, end: float) -> Integers:
        """Transactions with begin <= time < end."""
        return np.nonzero((self.time >= begin) & (self.time < end))[0]


def _times(table: pa.Table) -> Floats:
    return seconds(table["event_time"].cast(pa.int64()).to_numpy())


@dataclass(frozen=True)
class Edges:
    """Edges by receiver: those of node i come from `sender[begin[i]:begin[i + 1]]`."""

    begin: Integers
    sender: Integers
    senders: int


@dataclass(frozen=True)
class Snapshot:
    """The graph as of `at`, event time in seconds.

    Attributes:
        seq: Sequence of the last transaction before `at`, 0 for none.
        nodes: By entity, (K, NODE_INPUTS). seen: By entity, (K,) whether a node has any edge.
        edges: By (sending entity, relation, receiving entity).
    """

    at: float
    seq: int
    nodes: Mapping[str, Floats]
    seen: Mapping[str, Booleans]
    edges: Mapping[tuple[str, str, str], Edges]


def snapshot(ledger: Ledger, at: float) -> Snapshot:
    """The graph that was known at a moment."""
    past = ledger.within(at - MEMORY_DAYS * DAY, at)
    disputes = np.nonzero(
        (ledger.disputed_at < at) & (ledger.disputed_at >= at - MEMORY_DAYS * DAY)
    )[0]
    recent = past[ledger.time[past] >= at - RECENT_DAYS * DAY]
    pairs = {
        "pays": {e: ledger.codes[e][past] for e in ENTITIES},
        "recent": {e: ledger.codes[e][recent] for e in ENTITIES},
        "disputes": {e: ledger.disputed[e][disputes] for e in ENTITIES},
    }
    edges: dict[tuple[str, str, str], Edges] = {}
    for party in PARTIES:
        for relation in RELATIONS:
            if (relation, party) != SKIPPED:
                edges.update(_both_ways(ledger, relation, party, pairs[relation]))
    edges[CUSTOMER, SHARES, CUSTOMER] = _sharing(ledger, past)
    nodes = {e: _node_inputs(ledger, e, at, past, pairs["disputes"][e]) for e in ENTITIES}
    # The first input counts transactions, the third disputes.
    seen = {e: (inputs[:, 0] > 0) | (inputs[:, 2] > 0) for e, inputs in nodes.items()}
    return Snapshot(at, int(ledger.seq[past].max(initial=0)), nodes, seen, edges)


def relations() -> Iterator[tuple[str, str, str]]:
    """All (sender, relation, receiver) there are."""
    for party in PARTIES:
        for relation in RELATIONS:
            if (relation, party) != SKIPPED:
                yield CUSTOMER, relation, party
                yield party, relation, CUSTOMER
    yield CUSTOMER, SHARES, CUSTOMER


def _both_ways(
    ledger: Ledger, relation: str, party: str, codes: Mapping[str, Integers]
) -> dict[tuple[str, str, str], Edges]:
    customers, parties = codes[CUSTOMER], codes[party]
    there = parties >= 0
    many = max(len(ledger.names[party]), 1)
    pair = np.unique(customers[there] * many + parties[there])
    customer, other = pair // many, pair % many
    return {
        (party, relation, CUSTOMER): _edges(ledger, party, other, CUSTOMER, customer),
        (CUSTOMER, relation, party): _edges(ledger, CUSTOMER, customer, party, other),
    }


def _sharing(ledger: Ledger, past: Integers) -> Edges:
    """Customers who paid with the same device, nobody with themselves."""
    used = pd.DataFrame({c: ledger.codes[c][past] for c in (CUSTOMER, SHARED)})
    used = used[used[SHARED] >= 0].drop_duplicates()
    users = used[SHARED].map(used[SHARED].value_counts())
    used = used[(users > 1) & (users <= MOST_SHARING)]
    pairs = used.merge(used, on=SHARED, suffixes=("", "_other"))[[CUSTOMER, f"{CUSTOMER}_other"]]
    pairs = pairs[pairs[CUSTOMER] != pairs[f"{CUSTOMER}_other"]].drop_duplicates()
    sender, receiver = pairs[f"{CUSTOMER}_other"].to_numpy(), pairs[CUSTOMER].to_numpy()
    return _edges(ledger, CUSTOMER, sender, CUSTOMER, receiver)


def _edges(
    ledger: Ledger, sending: str, sender: Integers, receiving: str, receiver: Integers
) -> Edges:
    order = np.lexsort((sender, receiver))
    count = np.bincount(receiver, minlength=len(ledger.names[receiving]))
    begin = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return Edges(begin, sender[order].astype(np.int64), len(ledger.names[sending]))


def _node_inputs(
    ledger: Ledger, entity: str, at: float, past: Integers, disputed: Integers
) -> Floats:
    """(K, NODE_INPUTS): how much a node deals, how often it is disputed, for what amounts."""
    count = len(ledger.names[entity])
    there = past[ledger.codes[entity][past] >= 0]
    busy = there[ledger.time[there] >= at - BUSY_DAYS * DAY]
    codes = ledger.codes[entity]
    dealt = np.bincount(codes[there], minlength=count)
    lately = np.bincount(codes[busy], minlength=count)
    charged = np.bincount(disputed[disputed >= 0], minlength=count)
    amount = np.bincount(codes[there], np.log1p(ledger.amount[there]), minlength=count)
    return np.column_stack(
        [
            np.log1p(dealt),
            np.log1p(lately),
            np.log1p(charged),
            10.0 * charged / (dealt + 5.0),
            amount / np.maximum(dealt, 1) / 4.0,
        ]
    )
