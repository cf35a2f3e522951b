"""Readings: what a model sees of states, by hand and against the events themselves."""

import numpy as np
import pandas as pd
import pytest

from features.spec import DAY, HALF_LIVES
from services.fraud.features.states import (
    FEATURES,
    GROUPS,
    OWN,
    SPEC,
    STATES,
    TABULAR,
    read_frame,
    vectors,
)

INDEX = {name: i for i, name in enumerate(FEATURES)}


def rows(fill=0.0):
    return {s.name: np.full((1, s.width), fill) for s in STATES}


def own(t=1.65e9, amount=20.0, items=2.0, highest=15.0):
    return np.array([[t, amount, items, highest]])


def test_every_feature_is_written():
    found = vectors(rows(), own())
    assert found.shape == (1, len(FEATURES))
    unseen = vectors(rows(), own())[0]
    assert unseen[INDEX["customer_transactions_30d"]] == 0.0
    assert np.isnan(unseen[INDEX["customer_mean_amount_30d"]])
    assert np.isnan(unseen[INDEX["device_seconds_since_last"]])
    assert unseen[INDEX["customer_device_is_new"]] == 1.0


def test_without_the_store_only_the_transactions_own_features_remain():
    found = vectors(rows(np.nan), own())[0]
    known = {name for name, value in zip(FEATURES, found, strict=True) if not np.isnan(value)}
    assert known == set(GROUPS["transaction"])


def test_time_of_day_and_week_are_utc():
    t = pd.Timestamp("2022-03-02 18:30:00", tz="UTC").timestamp()  # a Wednesday
    found = vectors(rows(), own(t=t))[0]
    assert found[INDEX["hour_of_day"]] == pytest.approx(18.5)
    assert found[INDEX["day_of_week"]] == 2.0


def test_features_are_those_of_the_events_before(world):
    """Recount one customer's history from the table itself."""
    table = world.transactions.to_pandas()
    busiest = table["customer_id"].value_counts().index[0]
    mine = table[table["customer_id"] == busiest]
    at = mine.index[-1]
    t = table.loc[at, "event_time"].timestamp()
    earlier = mine.loc[mine.index < at]
    age = t - np.array([e.timestamp() for e in earlier["event_time"]])
    weight = 2.0 ** (-age / HALF_LIVES[3])
    found = world.vectors[at]
    assert found[INDEX["customer_transactions_30d"]] == pytest.approx(weight.sum(), rel=1e-9)
    mean = (weight * earlier["amount_minor"] / 100).sum() / weight.sum()
    assert found[INDEX["customer_mean_amount_30d"]] == pytest.approx(mean, rel=1e-9)
    assert found[INDEX["customer_seconds_since_last"]] == pytest.approx(age.min(), abs=1e-5)


def test_a_device_counts_each_new_customer_once(world):
    table = world.transactions.to_pandas()
    shared = table.groupby("device_id")["customer_id"].nunique().idxmax()
    mine = table[table["device_id"] == shared]
    at = mine.index[-1]
    t = table.loc[at, "event_time"].timestamp()
    earlier = mine.loc[mine.index < at].drop_duplicates("customer_id")
    age = t - np.array([e.timestamp() for e in earlier["event_time"]])
    expected = (2.0 ** (-age / (30 * DAY))).sum()
    found = world.vectors[at, INDEX["device_new_customers_30d"]]
    assert found == pytest.approx(expected, rel=1e-9)


def test_feast_reads_groups_by_the_same_function(world):
    chosen = np.nonzero(world.events.sighting)[0][-50:]
    frame = pd.DataFrame({s.name: list(world.folded[s.name].before[chosen]) for s in STATES})
    from services.fraud.retraining.training import entity_frame, own_frame

    values = own_frame(entity_frame(world.transactions))[-50:]
    for i, name in enumerate(OWN):
        frame[name] = values[:, i]
    parts = [read_frame(group, frame) for group in SPEC.groups]
    joined = pd.concat(parts, axis=1)[list(TABULAR)].to_numpy()
    assert joined.tobytes() == world.vectors[-50:, : len(TABULAR)].tobytes()
