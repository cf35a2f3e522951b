"""Feast's historical features against what the kernel emitted in stream order."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from features.spec import TIME_COLUMN
from features.store import open_store
from services.fraud.features import FEATURES, SPEC
from services.fraud.history import STATE_LOG, write_states
from services.fraud.training import entity_frame
from services.skeleton.lake import Lake


@pytest.fixture(scope="module")
def store(config, world):
    lake = Lake(config)
    write_states(lake, world.events, world.folded, since=0.0, step=lambda *_: None)
    yield open_store(config, SPEC, f"s3://{config.bucket}/{STATE_LOG}")
    lake.remove([STATE_LOG])


def historical(store, frame):
    job = store.get_historical_features(frame, store.get_feature_service("fraud"))
    return job.to_df()[list(FEATURES)].to_numpy(dtype=np.float64)


def test_historical_features_are_the_kernels_bytes(store, world):
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(world.transactions), 5_000, replace=False))
    frame = entity_frame(world.transactions.take(chosen))
    assert historical(store, frame).tobytes() == world.vectors[chosen].tobytes()


def test_order_of_rows_is_kept(store, world):
    chosen = np.array([900, 3, 500])
    frame = entity_frame(world.transactions.take(chosen))
    assert historical(store, frame).tobytes() == world.vectors[chosen].tobytes()


def test_without_a_sequence_time_decides_strictly(store, world):
    chosen = np.arange(40_000, 40_200)
    frame = entity_frame(world.transactions.take(chosen)).drop(columns="seq")
    exact = historical(store, frame)
    assert exact.tobytes() == world.vectors[chosen].tobytes()
    later = frame.assign(**{TIME_COLUMN: frame[TIME_COLUMN] + timedelta(microseconds=1)})
    # A microsecond later a transaction is in its own past, and only then.
    column = FEATURES.index("customer_transactions_1h")
    grown = historical(store, later)[:, column] - exact[:, column]
    assert (grown > 0.99).all()


def test_a_null_device_is_missing_not_unseen(store, world):
    frame = entity_frame(world.transactions.take([100]))
    frame["device_id"] = pd.Series([None], dtype=object)
    found = historical(store, frame)[0]
    assert np.isnan(found[FEATURES.index("customer_device_is_new")])
    assert not np.isnan(found[FEATURES.index("customer_transactions_30d")])


@pytest.mark.parametrize(
    ("frame", "message"),
    [("SELECT 1", "DataFrame"), (pd.DataFrame({"customer_id": ["c"]}), TIME_COLUMN)],
)
def test_what_it_cannot_join_is_refused(store, frame, message):
    from features.offline import AsofOfflineStore

    with pytest.raises(ValueError, match=message):
        AsofOfflineStore.get_historical_features(store.config, [], [], frame, None, "p")


def test_the_newest_rows_are_what_materializing_would_load(store, world):
    view = store.get_feature_view("merchant_state")
    last = world.transactions["event_time"][-1].as_py()
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        store.config, view.batch_source, ["merchant_id"], ["merchant_state"], TIME_COLUMN, None,
        last - timedelta(days=30), last + timedelta(days=1),
    )  # fmt: skip
    found = job.to_df().set_index("merchant_id")["merchant_state"]
    done = world.folded["merchant_state"]
    assert len(found) == len(done.keys)
    for i, (key,) in enumerate(done.keys):
        assert np.asarray(found[key]).tobytes() == done.table[i].tobytes()
