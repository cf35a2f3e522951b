"""Feature vectors from states: compiled functions that training and serving share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from features.accumulators import decayed
from features.jit import jit
from features.spec import DAY, FIRST_SEQ, HALF_LIVES, HOUR, LAST_SEEN, SEQ, VALUES, State
from services.fraud.features.request import REQUEST_FEATURES
from services.fraud.features.states import (
    CUSTOMER,
    DEVICE,
    EMBEDDING_FEATURES,
    EMBEDDING_GROUPS,
    EMBEDDING_SIZE,
    EMBEDDINGS,
    FEATURES,
    GROUPS,
    IP,
    MERCHANT,
    PAIR,
    STATES,
)
from services.fraud.ingestion.columns import Events
from services.platform.types import Booleans, Floats

if TYPE_CHECKING:
    import pandas as pd

# Offsets of the measures: global constants, which the compiled functions inline.
_N = CUSTOMER.offset("transactions")
_AMOUNT = CUSTOMER.offset("amount")
_SQUARED = CUSTOMER.offset("amount_squared")
_LABELLED = CUSTOMER.offset("labelled")
_DEVICE_LABELLED = DEVICE.offset("labelled")
_DEVICE_NEW = DEVICE.offset("new_customers")
_IP_LABELLED = IP.offset("labelled")
_H1, _D1, _D7, _D30 = HALF_LIVES
_H = len(HALF_LIVES)


@jit
def _ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN where the denominator is zero, which the trees route as missing."""
    return numerator / denominator if denominator > 1e-9 else np.nan


@jit
def _risk(row: Floats, labelled: int, k: int, t: float) -> float:
    """Share of an entity's labelled transactions that were charged back.

    Labels arrive late, so both sums count labels, not transactions: a chargeback is divided by the
    labels of the same time. The constant shrinks the share where labels are few. The measure after
    `labelled` is `chargebacks` in every state that has it.
    """
    charged = decayed(row, labelled + _H + k, HALF_LIVES[k], t)
    return charged / (decayed(row, labelled + k, HALF_LIVES[k], t) + 0.3)


@jit
def _zscore(row: Floats, k: int, half_life: float, t: float, amount: float) -> float:
    """The amount's deviation from the customer's mean, in the customer's standard deviations."""
    n = decayed(row, _N + k, half_life, t)
    if not n > 1e-9:
        return np.nan
    mean = decayed(row, _AMOUNT + k, half_life, t) / n
    variance = decayed(row, _SQUARED + k, half_life, t) / n - mean * mean
    return (amount - mean) / np.sqrt(max(variance, 0.0) + 1.0)


@jit
def _since_last(row: Floats, t: float) -> float:
    """Seconds since the entity's last transaction, NaN without one."""
    if not row[LAST_SEEN] > 0.0:
        return np.nan
    return max(t - row[LAST_SEEN], 0.0)


@jit
def transaction(t: float, amount: float, items: float, highest: float, out: Floats) -> None:
    """Write the features of group `transaction` into `out`, from the `REQUEST_FEATURES`."""
    out[0] = amount
    out[1] = (t % DAY) / HOUR
    out[2] = np.floor(t / DAY + 3.0) % 7.0  # 1970-01-01 was a Thursday; 0 = Monday
    out[3] = items
    out[4] = highest


@jit
def customer_behaviour(row: Floats, t: float, amount: float, out: Floats) -> None:
    """Write the features of a `customer_state` row as of `t` into `out`, in the group's order."""
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


@jit
def device_ip_risk(device: Floats, pair: Floats, ip: Floats, t: float, out: Floats) -> None:
    """Write the features of a device, customer-device and IP row as of `t` into `out`."""
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


@jit
def merchant_profile(row: Floats, t: float, amount: float, out: Floats) -> None:
    """Write the features of a `merchant_state` row as of `t` into `out`, in the group's order."""
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


@jit
def read(
    customer: Floats,
    merchant: Floats,
    pair: Floats,
    device: Floats,
    ip: Floats,
    request: Floats,
    out: Floats,
) -> None:
    """Write the feature vectors of N transactions: one for a request, a million for training.

    Args:
        customer, merchant, pair, device, ip: (N, width) state rows as of before each transaction.
        request: (N, len(REQUEST_FEATURES)) request features.
        out: (N, len(FEATURES)) receives the tabular part of the vectors.
    """
    for n in range(out.shape[0]):
        row = out[n]
        t, amount, items, highest = request[n]
        transaction(t, amount, items, highest, row[:_T_END])
        customer_behaviour(customer[n], t, amount, row[_T_END:_C_END])
        device_ip_risk(device[n], pair[n], ip[n], t, row[_C_END:_D_END])
        merchant_profile(merchant[n], t, amount, row[_D_END:_M_END])


def contributions(state: State, events: Events, first: Mapping[str, Booleans]) -> Floats:
    """What each of N events adds to a state, (N, measures): the definition of all measures.

    Args:
        first: By state name, (N,) whether an event is its entity's first transaction.
    """
    transactions = events.is_transaction.astype(np.float64)
    columns: Mapping[str, Callable[[], Floats]] = {
        "transactions": lambda: transactions,
        "amount": lambda: events.amount,
        "amount_squared": lambda: events.amount * events.amount,
        "labelled": lambda: 1.0 - transactions,
        "chargebacks": lambda: events.chargeback.astype(np.float64),
        "new_customers": lambda: first[PAIR.name].astype(np.float64),
    }
    return np.column_stack([columns[m]() for m in state.measures])


def feature_vectors(rows: Mapping[str, Floats], request: Floats) -> Floats:
    """Feature vectors of N transactions, (N, len(FEATURES)).

    Args:
        rows: By view name, (N, width): the states as of before each transaction and, where they
            were read, the embeddings. The features of an embedding that is missing are NaN.
        request: (N, len(REQUEST_FEATURES)) request features.
    """
    out = np.empty((len(request), len(FEATURES)))
    read(
        rows[CUSTOMER.name], rows[MERCHANT.name], rows[PAIR.name], rows[DEVICE.name],
        rows[IP.name], request, out,
    )  # fmt: skip
    out[:, _M_END:] = np.nan
    for number, view in enumerate(EMBEDDINGS):
        if view.name in rows:
            begin = _M_END + number * EMBEDDING_SIZE
            out[:, begin : begin + EMBEDDING_SIZE] = embedding_values(rows[view.name])
    return out


def embedding_values(rows: Floats) -> Floats:
    """The values of N embedding rows (N, width), (N, EMBEDDING_SIZE): NaN for unseen entities."""
    return np.where(rows[:, SEQ, None] > 0.0, rows[:, VALUES:], np.nan)


def transform_group(group: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """The transform that Feast calls for a feature group.

    Args:
        frame: N rows with the states or embeddings as lists, and the request features.
    """
    # Used offline only; importing pandas would slow the scorer's start.
    import pandas as pd

    from features.state_log import stack

    if group in EMBEDDING_GROUPS:
        values = [embedding_values(stack(frame[v.name], v.width)) for v in EMBEDDINGS]
        return pd.DataFrame(np.hstack(values), columns=list(EMBEDDING_FEATURES))
    rows = {state.name: stack(frame[state.name], state.width) for state in STATES}
    request = frame[list(REQUEST_FEATURES)].to_numpy(dtype=np.float64)
    found = feature_vectors(rows, np.ascontiguousarray(request))
    names = GROUPS[group]
    begin = FEATURES.index(names[0])
    return pd.DataFrame(found[:, begin : begin + len(names)], columns=list(names))
