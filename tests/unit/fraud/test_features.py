"""Feature vectors: by hand, and recomputed from the events themselves."""

import numpy as np
import pandas as pd
import pytest

from features.spec import DAY, HALF_LIVES
from services.fraud.features.kernel import feature_vectors, transform_group
from services.fraud.features.request import REQUEST_FEATURES, request_columns
from services.fraud.features.states import FEATURES, GROUPS, SPEC, STATES, TABULAR

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
    weight = 2.0 ** (-age / HALF_LIVES[3])
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
    parts = [transform_group(group, frame) for group in SPEC.groups]
    joined = pd.concat(parts, axis=1)[list(TABULAR)].to_numpy()
    assert joined.tobytes() == simulated.vectors[-50:, : len(TABULAR)].tobytes()
