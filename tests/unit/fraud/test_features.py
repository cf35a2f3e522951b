"""Feature vectors: by hand, and recomputed from the events themselves."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from features.spec import DAY, HALF_LIVES
from services.fraud.features.kernel import feature_vectors, transform_group
from services.fraud.features.request import REQUEST_FEATURES, request_columns
from services.fraud.features.states import FEATURES, GROUPS, STATES, TABULAR
from tests.identical import assert_identical

INDEX = {name: i for i, name in enumerate(FEATURES)}


def rows(fill=0.0):
    return {s.name: np.full((1, s.width), fill) for s in STATES}


def request(t=1.65e9, amount=20.0, items=2.0, highest=15.0):
    return np.array([[t, amount, items, highest]])


def test_every_feature_is_written():
    found = feature_vectors(rows(), request())
    assert found.shape == (1, len(FEATURES))
    unseen = feature_vectors(rows(), request())[0]
    assert unseen[INDEX["customer_transactions_30d"]] == 0.0
    assert np.isnan(unseen[INDEX["customer_mean_amount_30d"]])
    assert np.isnan(unseen[INDEX["device_seconds_since_last"]])
    assert unseen[INDEX["customer_device_is_new"]] == 1.0


def test_without_the_store_only_the_request_features_remain():
    found = feature_vectors(rows(np.nan), request())[0]
    known = {name for name, value in zip(FEATURES, found, strict=True) if not np.isnan(value)}
    assert known == set(GROUPS["transaction"])


# Of the first 46 features of the simulated data set, before features were declared by name.
RECORDED = "955e91ff36b8f60c2d50a672534fd61c6a9750307e288c4e07e3a7c087e2fb06"
ROWS = {
    "customer_state": "00704ae4c59cd7ab",
    "merchant_state": "5ed09c6e613b221a",
    "customer_device_state": "ef3179dcae81ad9d",
    "device_state": "b3c2ebc7f14cef80",
    "ip_state": "778c4ea9f270cabf",
}
FIRST_FEATURES = (
    "amount", "hour_of_day", "day_of_week", "cart_items", "cart_highest_price",
    "customer_transactions_1h", "customer_transactions_1d", "customer_transactions_7d",
    "customer_transactions_30d", "customer_mean_amount_1h", "customer_mean_amount_1d",
    "customer_mean_amount_7d", "customer_mean_amount_30d", "customer_amount_zscore_7d",
    "customer_amount_zscore_30d", "customer_amount_ratio_30d", "customer_seconds_since_last",
    "customer_chargebacks_30d", "customer_risk_7d", "customer_risk_30d",
    "device_transactions_1h", "device_transactions_1d", "device_transactions_7d",
    "device_transactions_30d", "device_new_customers_1d", "device_new_customers_30d",
    "device_risk_7d", "device_risk_30d", "device_seconds_since_last", "customer_device_is_new",
    "customer_device_transactions_30d", "ip_transactions_1h", "ip_transactions_1d",
    "ip_risk_30d", "merchant_transactions_1h", "merchant_transactions_1d",
    "merchant_transactions_7d", "merchant_transactions_30d", "merchant_mean_amount_30d",
    "merchant_amount_ratio_30d", "merchant_chargebacks_1d", "merchant_chargebacks_7d",
    "merchant_chargebacks_30d", "merchant_risk_1d", "merchant_risk_7d", "merchant_risk_30d",
)  # fmt: skip


def test_the_bytes_are_those_recorded_before_features_had_names(simulated):
    """Models, logged vectors and stored rows depend on them."""
    chosen = np.ascontiguousarray(simulated.vectors[:, [INDEX[name] for name in FIRST_FEATURES]])
    assert hashlib.sha256(chosen.tobytes()).hexdigest() == RECORDED
    for state in STATES:
        if state.hash == state.first_hash:
            found = hashlib.sha256(simulated.states[state.name].table.tobytes()).hexdigest()
            assert found[:16] == ROWS[state.name], state.name


def test_time_of_day_and_week_are_utc():
    t = pd.Timestamp("2022-03-02 18:30:00", tz="UTC").timestamp()  # a Wednesday
    found = feature_vectors(rows(), request(t=t))[0]
    assert found[INDEX["hour_of_day"]] == pytest.approx(18.5)
    assert found[INDEX["day_of_week"]] == 2.0


def test_features_use_only_the_events_before(simulated):
    """Recompute one customer's features from the table of transactions."""
    table = simulated.transactions.to_pandas()
    busiest = table["customer_id"].value_counts().index[0]
    mine = table[table["customer_id"] == busiest]
    at = mine.index[-1]
    t = table.loc[at, "event_time"].timestamp()
    earlier = mine.loc[mine.index < at]
    age = t - np.array([e.timestamp() for e in earlier["event_time"]])
    weight = 2.0 ** (-age / HALF_LIVES["30d"])
    found = simulated.vectors[at]
    assert found[INDEX["customer_transactions_30d"]] == pytest.approx(weight.sum(), rel=1e-9)
    mean = (weight * earlier["amount_minor"] / 100).sum() / weight.sum()
    assert found[INDEX["customer_mean_amount_30d"]] == pytest.approx(mean, rel=1e-9)
    assert found[INDEX["customer_seconds_since_last"]] == pytest.approx(age.min(), abs=1e-5)


def test_a_device_counts_each_new_customer_once(simulated):
    table = simulated.transactions.to_pandas()
    shared = table.groupby("device_id")["customer_id"].nunique().idxmax()
    mine = table[table["device_id"] == shared]
    at = mine.index[-1]
    t = table.loc[at, "event_time"].timestamp()
    earlier = mine.loc[mine.index < at].drop_duplicates("customer_id")
    age = t - np.array([e.timestamp() for e in earlier["event_time"]])
    expected = (2.0 ** (-age / (30 * DAY))).sum()
    found = simulated.vectors[at, INDEX["device_new_customers_30d"]]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_feast_transform_gives_the_same_bytes(simulated):
    chosen = np.nonzero(simulated.events.is_transaction)[0][-50:]
    frame = pd.DataFrame({s.name: list(simulated.states[s.name].snapshots[chosen]) for s in STATES})
    values = request_columns(simulated.transactions)[-50:]
    for i, name in enumerate(REQUEST_FEATURES):
        frame[name] = values[:, i]
    parts = [transform_group(group, frame) for group in GROUPS]
    joined = pd.concat(parts, axis=1)[list(TABULAR)].to_numpy()
    assert_identical(joined, simulated.vectors[-50:, : len(TABULAR)])
