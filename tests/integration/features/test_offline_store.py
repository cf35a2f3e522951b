"""Feast's historical features against the kernel's snapshots in stream order."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from features.spec import SEQ, TIME, TIME_COLUMN
from features.state_log import row_table
from features.store import open_store
from services.fraud.features.backfill import vectors_before, write_states
from services.fraud.features.request import entity_frame
from services.fraud.features.states import EMBEDDING_FEATURES, EMBEDDINGS, FEATURE_SET, TABULAR
from services.fraud.ingestion.tables import STATE_LOG
from services.platform.storage.lake import Lake
from tests.identical import assert_identical


@pytest.fixture(scope="module")
def store(config, simulated):
    lake = Lake(config)
    write_states(lake, simulated.events, simulated.states, since=0.0)
    yield open_store(config, FEATURE_SET, f"s3://{config.bucket}/{STATE_LOG}")
    lake.remove([STATE_LOG])


def historical(store, frame):
    job = store.get_historical_features(frame, store.get_feature_service("fraud"))
    return job.to_df()[list(TABULAR)].to_numpy(dtype=np.float64)


def test_historical_features_equal_the_kernels_bytes(store, simulated):
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(simulated.transactions), 5_000, replace=False))
    frame = entity_frame(simulated.transactions.take(chosen))
    assert_identical(historical(store, frame), simulated.vectors[chosen, : len(TABULAR)])


def test_training_at_a_first_start_sees_what_feast_would_return(store, simulated):
    rows = simulated.transactions.slice(30_000, 4_000)
    found = vectors_before(simulated.states, rows)
    assert_identical(found, historical(store, entity_frame(rows)))


def test_order_of_rows_is_kept(store, simulated):
    chosen = np.array([900, 3, 500])
    frame = entity_frame(simulated.transactions.take(chosen))
    assert_identical(historical(store, frame), simulated.vectors[chosen, : len(TABULAR)])


def test_without_a_sequence_the_join_is_strictly_before_in_time(store, simulated):
    chosen = np.arange(40_000, 40_200)
    frame = entity_frame(simulated.transactions.take(chosen)).drop(columns="seq")
    exact = historical(store, frame)
    assert_identical(exact, simulated.vectors[chosen, : len(TABULAR)])
    later = frame.assign(**{TIME_COLUMN: frame[TIME_COLUMN] + timedelta(microseconds=1)})
    # A microsecond later a transaction is in its own past, and only then.
    column = TABULAR.index("customer_transactions_1h")
    grown = historical(store, later)[:, column] - exact[:, column]
    assert (grown > 0.99).all()


def test_a_null_device_is_missing(store, simulated):
    frame = entity_frame(simulated.transactions.take([100]))
    frame["device_id"] = pd.Series([None], dtype=object)
    found = historical(store, frame)[0]
    assert np.isnan(found[TABULAR.index("customer_device_is_new")])
    assert not np.isnan(found[TABULAR.index("customer_transactions_30d")])


@pytest.mark.parametrize(
    ("frame", "message"),
    [("SELECT 1", "DataFrame"), (pd.DataFrame({"customer_id": ["c"]}), TIME_COLUMN)],
)
def test_an_invalid_entity_frame_is_refused(store, frame, message):
    from features.offline import AsofOfflineStore

    with pytest.raises(ValueError, match=message):
        AsofOfflineStore.get_historical_features(store.config, [], [], frame, None, "p")


def test_materialization_reads_the_newest_rows(store, simulated):
    view = store.get_feature_view("merchant_state")
    last = simulated.transactions["event_time"][-1].as_py()
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        store.config, view.batch_source, ["merchant_id"], ["merchant_state"], TIME_COLUMN, None,
        last - timedelta(days=30), last + timedelta(days=1),
    )  # fmt: skip
    found = job.to_df().set_index("merchant_id")["merchant_state"]
    done = simulated.states["merchant_state"]
    assert len(found) == len(done.keys)
    for i, (key,) in enumerate(done.keys):
        assert_identical(np.asarray(found[key]), done.table[i])


def test_embeddings_come_from_the_last_snapshot_before(store, simulated, config):
    """Two snapshots; the second holds one merchant only."""
    lake = Lake(config)
    rows = simulated.transactions.take([20_000, 60_000])
    customers, merchants = (
        [(k,) for k in rows[c].to_pylist()] for c in ("customer_id", "merchant_id")
    )
    early, late = rows["seq"][0].as_py() - 1, rows["seq"][1].as_py() - 1
    for view in EMBEDDINGS:
        keys = {"customer_id": customers, "merchant_id": merchants}.get(view.keys[0], [])
        values = np.arange(len(keys) * view.width, dtype=np.float64).reshape(len(keys), view.width)
        values[:, SEQ], values[:, TIME] = early, 1.65e9
        lake.write(f"{STATE_LOG}/{view.name}", row_table(view, keys, values), "1", partition=False)
    second = np.full((1, EMBEDDINGS[1].width), 0.5)
    second[:, SEQ], second[:, TIME] = late, 1.66e9
    table = row_table(EMBEDDINGS[1], merchants[1:], second)
    lake.write(f"{STATE_LOG}/{EMBEDDINGS[1].name}", table, "2", partition=False)

    job = store.get_historical_features(
        entity_frame(rows), store.get_feature_service("fraud_graph")
    )
    found = job.to_df()[list(EMBEDDING_FEATURES)].to_numpy().reshape(2, len(EMBEDDINGS), -1)
    width = EMBEDDINGS[0].width
    assert found[0, 0].tolist() == list(range(2, width))
    assert found[1, 0].tolist() == list(range(width + 2, 2 * width))
    assert found[0, 1].tolist() == list(range(2, width))
    assert found[1, 1].tolist() == [0.5] * EMBEDDINGS[1].size
    assert np.isnan(found[:, 2:]).all()
