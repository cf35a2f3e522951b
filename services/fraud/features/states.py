"""The states of each entity, the feature groups read from them, and what a request brings along."""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from features.accumulators import decayed
from features.jit import compiled
from features.spec import (
    DAY,
    FIRST_SEQ,
    HALF_LIFE_NAMES,
    HALF_LIVES,
    HOUR,
    LAST_SEEN,
    SEQ,
    VALUES,
    Booleans,
    Embedding,
    FeatureSpec,
    Floats,
    State,
)
from services.fraud.ingestion.events import ENTITIES, Events, Transaction, microseconds
from services.platform.models.onnx import Floats32

if TYPE_CHECKING:
    import pandas as pd

SPENDING = ("transactions", "amount", "amount_squared", "labelled", "chargebacks")

CUSTOMER = State("customer_state", ("customer_id",), SPENDING, shard="customer_id")
MERCHANT = State("merchant_state", ("merchant_id",), SPENDING, shard="merchant_id")
PAIR = State(
    "customer_device_state", ("customer_id", "device_id"), ("transactions",), shard="device_id"
)
DEVICE = State(
    "device_state",
    ("device_id",),
    ("transactions", "labelled", "chargebacks", "new_customers"),
    shard="device_id",
)
IP = State("ip_state", ("ip",), ("transactions", "labelled", "chargebacks"), shard="ip")

# The pair comes before the device: whether the pair is new is what the device counts.
STATES = (CUSTOMER, MERCHANT, PAIR, DEVICE, IP)

_PER_HALF_LIFE = tuple(HALF_LIFE_NAMES)
GROUPS: dict[str, tuple[str, ...]] = {
    "transaction": ("amount", "hour_of_day", "day_of_week", "cart_items", "cart_highest_price"),
    "customer_behaviour": (
        *(f"customer_transactions_{h}" for h in _PER_HALF_LIFE),
        *(f"customer_mean_amount_{h}" for h in _PER_HALF_LIFE),
        "customer_amount_zscore_7d",
        "customer_amount_zscore_30d",
        "customer_amount_ratio_30d",
        "customer_seconds_since_last",
        "customer_chargebacks_30d",
        "customer_risk_7d",
        "customer_risk_30d",
    ),
    "device_ip_risk": (
        *(f"device_transactions_{h}" for h in _PER_HALF_LIFE),
        "device_new_customers_1d",
        "device_new_customers_30d",
        "device_risk_7d",
        "device_risk_30d",
        "device_seconds_since_last",
        "customer_device_is_new",
        "customer_device_transactions_30d",
        "ip_transactions_1h",
        "ip_transactions_1d",
        "ip_risk_30d",
    ),
    "merchant_profile": (
        *(f"merchant_transactions_{h}" for h in _PER_HALF_LIFE),
        "merchant_mean_amount_30d",
        "merchant_amount_ratio_30d",
        *(f"merchant_chargebacks_{h}" for h in _PER_HALF_LIFE[1:]),
        *(f"merchant_risk_{h}" for h in _PER_HALF_LIFE[1:]),
    ),
}
# What a request brings along: UTC seconds, major units, items in the cart (NaN without a cart),
# the price of its dearest item.
OWN = ("request_seconds", "request_amount", "request_items", "request_highest_price")
TABULAR = tuple(name for group in GROUPS.values() for name in group)

# Where a party stands in the graph of who buys where: see `graph.py`.
GRAPH_SIZE = 8
GRAPH = tuple(
    Embedding(f"{entity.removesuffix('_id')}_graph", (entity,), GRAPH_SIZE) for entity in ENTITIES
)
PLACES = tuple(f"{view.name}_{i}" for view in GRAPH for i in range(GRAPH_SIZE))
FEATURES = TABULAR + PLACES

# A cart as a set of items: a category's bucket (names are hashed, so a new one needs no new
# vocabulary), and the price in major units. Rows that only fill up have bucket -1.
ITEMS = ("category_bucket", "price")
BUCKETS = 256
SETS = {"items": ITEMS}

# Offsets of the measures, as constants the compiled functions can see.
_N = CUSTOMER.offset("transactions")
_AMOUNT = CUSTOMER.offset("amount")
_SQUARED = CUSTOMER.offset("amount_squared")
_LABELLED = CUSTOMER.offset("labelled")
_DEVICE_LABELLED = DEVICE.offset("labelled")
_DEVICE_NEW = DEVICE.offset("new_customers")
_IP_LABELLED = IP.offset("labelled")
_H1, _D1, _D7, _D30 = HALF_LIVES
_H = len(HALF_LIVES)


@compiled
def _ratio(numerator: float, denominator: float) -> float:
    """Divide, or NaN where there is nothing to divide by: the trees route it as missing."""
    return numerator / denominator if denominator > 1e-9 else np.nan


@compiled
def _risk(row: Floats, labelled: int, k: int, t: float) -> float:
    """Share of an entity's labelled transactions that were charged back, shrunk where few are.

    Labels arrive late, so both sums are of labels, not of transactions: a chargeback of last
    week's transaction is held against last week's count. The measure after `labelled` is
    `chargebacks` in every state that has it.
    """
    charged = decayed(row, labelled + _H + k, HALF_LIVES[k], t)
    return charged / (decayed(row, labelled + k, HALF_LIVES[k], t) + 0.3)


@compiled
def _zscore(row: Floats, k: int, half_life: float, t: float, amount: float) -> float:
    """How unusual an amount is for the customer, in their own standard deviations."""
    n = decayed(row, _N + k, half_life, t)
    if not n > 1e-9:
        return np.nan
    mean = decayed(row, _AMOUNT + k, half_life, t) / n
    variance = decayed(row, _SQUARED + k, half_life, t) / n - mean * mean
    return (amount - mean) / np.sqrt(max(variance, 0.0) + 1.0)


@compiled
def _since_last(row: Floats, t: float) -> float:
    """Seconds since the entity was last seen, NaN if never."""
    if not row[LAST_SEEN] > 0.0:
        return np.nan
    return max(t - row[LAST_SEEN], 0.0)


@compiled
def transaction(t: float, amount: float, items: float, highest: float, out: Floats) -> None:
    """Write the transaction's own features into `out`, from the columns named in `OWN`."""
    out[0] = amount
    out[1] = (t % DAY) / HOUR
    out[2] = np.floor(t / DAY + 3.0) % 7.0  # 1970-01-01 was a Thursday; 0 = Monday
    out[3] = items
    out[4] = highest


@compiled
def customer_behaviour(row: Floats, t: float, amount: float, out: Floats) -> None:
    """Read a `customer_state` row as of `t` into `out`, in the order of the group's names."""
    for k in range(_H):
        n = decayed(row, _N + k, HALF_LIVES[k], t)
        out[k] = n
        out[_H + k] = _ratio(decayed(row, _AMOUNT + k, HALF_LIVES[k], t), n)
    out[8] = _zscore(row, 2, _D7, t, amount)
    out[9] = _zscore(row, 3, _D30, t, amount)
    out[10] = _ratio(amount, out[7])
    out[11] = _since_last(row, t)
    out[12] = decayed(row, _LABELLED + _H + 3, _D30, t)
    out[13] = _risk(row, _LABELLED, 2, t)
    out[14] = _risk(row, _LABELLED, 3, t)


@compiled
def device_ip_risk(device: Floats, pair: Floats, ip: Floats, t: float, out: Floats) -> None:
    """Read the device's, the customer-device pair's and the IP's rows as of `t` into `out`."""
    for k in range(_H):
        out[k] = decayed(device, _N + k, HALF_LIVES[k], t)
    out[4] = decayed(device, _DEVICE_NEW + 1, _D1, t)
    out[5] = decayed(device, _DEVICE_NEW + 3, _D30, t)
    out[6] = _risk(device, _DEVICE_LABELLED, 2, t)
    out[7] = _risk(device, _DEVICE_LABELLED, 3, t)
    out[8] = _since_last(device, t)
    out[9] = np.nan if np.isnan(pair[FIRST_SEQ]) else (1.0 if pair[FIRST_SEQ] == 0.0 else 0.0)
    out[10] = decayed(pair, _N + 3, _D30, t)
    out[11] = decayed(ip, _N, _H1, t)
    out[12] = decayed(ip, _N + 1, _D1, t)
    out[13] = _risk(ip, _IP_LABELLED, 3, t)


@compiled
def merchant_profile(row: Floats, t: float, amount: float, out: Floats) -> None:
    """Read a `merchant_state` row as of `t` into `out`, in the order of the group's names."""
    for k in range(_H):
        out[k] = decayed(row, _N + k, HALF_LIVES[k], t)
    out[4] = _ratio(decayed(row, _AMOUNT + 3, _D30, t), out[3])
    out[5] = _ratio(amount, out[4])
    for k in range(1, _H):
        out[5 + k] = decayed(row, _LABELLED + _H + k, HALF_LIVES[k], t)
        out[8 + k] = _risk(row, _LABELLED, k, t)


_T_END = len(GROUPS["transaction"])
_C_END = _T_END + len(GROUPS["customer_behaviour"])
_D_END = _C_END + len(GROUPS["device_ip_risk"])
_M_END = _D_END + len(GROUPS["merchant_profile"])


@compiled
def read(
    customer: Floats,
    merchant: Floats,
    pair: Floats,
    device: Floats,
    ip: Floats,
    own: Floats,
    out: Floats,
) -> None:
    """Read N transactions' feature vectors: one for a request, a million for training.

    Args:
        customer, merchant, pair, device, ip: (N, width) state rows as of before each transaction.
        own: (N, len(OWN)) what the transactions say of themselves.
        out: (N, len(FEATURES)) receives the tabular part of the vectors.
    """
    for n in range(out.shape[0]):
        row = out[n]
        t, amount, items, highest = own[n]
        transaction(t, amount, items, highest, row[:_T_END])
        customer_behaviour(customer[n], t, amount, row[_T_END:_C_END])
        device_ip_risk(device[n], pair[n], ip[n], t, row[_C_END:_D_END])
        merchant_profile(merchant[n], t, amount, row[_D_END:_M_END])


def contributions(state: State, events: Events, first: Mapping[str, Booleans]) -> Floats:
    """What each of N events adds to a state, (N, measures): the one place measures get meaning.

    Args:
        first: By state name, (N,) whether an event is its entity's first sighting.
    """
    seen = events.sighting.astype(np.float64)
    columns: Mapping[str, Callable[[], Floats]] = {
        "transactions": lambda: seen,
        "amount": lambda: events.amount,
        "amount_squared": lambda: events.amount * events.amount,
        "labelled": lambda: 1.0 - seen,
        "chargebacks": lambda: events.chargeback.astype(np.float64),
        "new_customers": lambda: first[PAIR.name].astype(np.float64),
    }
    return np.column_stack([columns[m]() for m in state.measures])


def vectors(rows: Mapping[str, Floats], own: Floats) -> Floats:
    """Feature vectors of N transactions, (N, len(FEATURES)); NaN for a place that is not known.

    Args:
        rows: By state name, (N, width): the states as of before each transaction; and, where
            they were read, the embeddings.
        own: (N, len(OWN)) what the transaction says of itself, in the order of `OWN`.
    """
    out = np.empty((len(own), len(FEATURES)))
    read(
        rows[CUSTOMER.name], rows[MERCHANT.name], rows[PAIR.name], rows[DEVICE.name],
        rows[IP.name], own, out,
    )  # fmt: skip
    out[:, _M_END:] = np.nan
    for number, view in enumerate(GRAPH):
        if view.name in rows:
            begin = _M_END + number * GRAPH_SIZE
            out[:, begin : begin + GRAPH_SIZE] = place_values(rows[view.name])
    return out


def place_values(rows: Floats) -> Floats:
    """The values of N embedding rows, (N, GRAPH_SIZE): NaN for an entity no night has seen."""
    return np.where(rows[:, SEQ, None] > 0.0, rows[:, VALUES:], np.nan)


def bucket(category: str) -> int:
    """The bucket of a category's name, in 0..BUCKETS - 1."""
    return zlib.crc32(category.encode()) % BUCKETS


def cart_items(transaction: Transaction) -> Floats32:
    """A transaction's cart as a set, (1, M, len(ITEMS)); one row that only fills up if empty."""
    items = [(float(bucket(i.category)), i.price_minor / 100.0) for i in transaction.cart]
    return np.array([items or [(-1.0, 0.0)]], dtype=np.float32)


def own_columns(transaction: Transaction) -> tuple[float, float, float, float]:
    """What a transaction says of itself, in the order of `OWN`."""
    prices = [item.price_minor for item in transaction.cart]
    return (
        microseconds(transaction.event_time) / 1e6,
        transaction.amount_minor / 100.0,
        float(len(prices)) if prices else math.nan,
        max(prices) / 100.0 if prices else math.nan,
    )


def read_frame(group: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """A group's features out of states and request columns: what Feast calls to read a view."""
    # Offline only: a request needs neither pandas nor what it drags in.
    import pandas as pd

    from features.state_log import stack

    if group in EMBEDDED:
        read_places = [place_values(stack(frame[v.name], v.width)) for v in GRAPH]
        return pd.DataFrame(np.hstack(read_places), columns=list(PLACES))
    rows = {state.name: stack(frame[state.name], state.width) for state in STATES}
    found = vectors(rows, np.ascontiguousarray(frame[list(OWN)].to_numpy(dtype=np.float64)))
    names = GROUPS[group]
    begin = FEATURES.index(names[0])
    return pd.DataFrame(found[:, begin : begin + len(names)], columns=list(names))


EMBEDDED = {"graph": PLACES}
SPEC = FeatureSpec(
    design="fraud",
    states=STATES,
    groups=GROUPS,
    own=OWN,
    reading="services.fraud.features.states:read_frame",
    embeddings=GRAPH,
    embedded=EMBEDDED,
)
