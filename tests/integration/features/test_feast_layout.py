"""The fast Redis reader and writer against Feast's own, on a real Redis."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from features.online.layout import PROJECT, RowLayout
from features.online.reader import OnlineReader
from features.online.table import OnlineTable
from features.redis_connection import RedisConnection
from features.spec import SEQ, TIME, Measure
from features.store import open_store
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import REQUEST_FEATURES
from services.fraud.features.states import CUSTOMER, EMBEDDINGS, FEATURE_SET, FEATURES, PAIR, STATES
from services.fraud.serving import row_preload
from services.fraud.serving.row_cache import RowCache
from services.fraud.serving.row_preload import preload
from services.platform.telemetry import LEFT_OUT
from tests.identical import assert_identical

names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def store(config):
    return open_store(config, FEATURE_SET)


@given(names, names)
def test_keys_equal_feasts(customer, device):
    ours = RowLayout.of(PAIR).key((customer, device))
    proto = EntityKey(
        join_keys=["customer_id", "device_id"],
        entity_values=[Value(string_val=customer), Value(string_val=device)],
    )
    assert ours == _redis_key(PROJECT, proto, 3)


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.name)
def test_fields_and_values_equal_feasts(state):
    layout = RowLayout.of(state)
    row = np.random.default_rng(0).normal(size=state.width)
    proto = Value()
    proto.double_list_val.val.extend(row.tolist())
    theirs = proto.SerializeToString()
    [ours] = layout.values(row[None])
    assert ours == theirs + layout.trailer
    assert list(Value.FromString(ours).double_list_val.val) == row.tolist()
    assert layout.field == _mmh3(f"{state.name}:{state.name}")
    unseen, read, without_hash = layout.decode([None, ours, theirs])
    assert not unseen.any()
    assert read.tobytes() == without_hash.tobytes() == row.tobytes()


def test_a_row_of_another_declaration_is_not_read_and_counted():
    measures = (*CUSTOMER.measures, Measure("large", "", "amount * amount * amount"))
    changed = replace(CUSTOMER, measures=measures)
    ours, theirs = RowLayout.of(CUSTOMER), RowLayout.of(changed)
    before = LEFT_OUT.labels(CUSTOMER.name)._value.get()
    [old] = ours.values(np.ones((1, CUSTOMER.width)))
    [new] = theirs.values(np.ones((1, changed.width)))
    without_hash = old[: ours.end]
    for layout, raw in (
        (theirs, old),
        (theirs, without_hash),
        (ours, new),
        (ours, without_hash[:-8]),
    ):
        assert np.isnan(layout.decode([raw])).all()
    assert LEFT_OUT.labels(CUSTOMER.name)._value.get() == before + 4
    # A row that was not read is not written back.
    assert theirs.write_commands([b"k"], theirs.decode([old])) == []


def test_many_rows_are_decoded_like_one():
    """Absent ones among them, and with one of another declaration."""
    layout = RowLayout.of(CUSTOMER)
    rows = np.random.default_rng(4).normal(size=(100, CUSTOMER.width))
    raws = [None if n % 7 == 0 else raw for n, raw in enumerate(layout.values(rows))]
    for changed in (raws, [*raws, raws[1][: layout.end]], [*raws, raws[1][:-1] + b"?"]):
        many = layout.decode(changed)
        assert many.tobytes() == b"".join(layout.decode([raw]).tobytes() for raw in changed)
        assert many.flags.writeable
        assert many[0].tolist() == [0.0] * CUSTOMER.width


@given(names, names)
def test_an_entity_is_read_back_from_its_key(customer, device):
    layout = RowLayout.of(PAIR)
    assert layout.entity(layout.key((customer, device))) == (customer, device)


def filled(state, rng, count):
    rows = rng.uniform(0, 1e5, (count, state.width))
    rows[:, SEQ] = np.arange(1, count + 1)
    rows[:, TIME] = 1.65e9 + np.arange(count)
    return rows


async def test_feast_reads_our_rows_and_computes_the_same_features(store, config):
    rng = np.random.default_rng(1)
    entity = {"customer_id": "A", "merchant_id": "B", "device_id": "C", "ip": "10.0.0.9"}
    with Redis.from_url(config.redis) as redis:
        for view in (*STATES, *EMBEDDINGS):
            key = tuple(entity[k] for k in view.keys)
            OnlineTable(redis, view).store([key], filled(view, rng, 1))
    request = {
        REQUEST_FEATURES[0]: 1.65e9 + 500.0,
        REQUEST_FEATURES[1]: 12.5,
        REQUEST_FEATURES[2]: 2.0,
        REQUEST_FEATURES[3]: 9.0,
    }
    service = store.get_feature_service("fraud_graph")
    theirs = store.get_online_features(service, [{**entity, **request}]).to_dict()
    rows = await OnlineReader(RedisConnection(config.redis), (*STATES, *EMBEDDINGS)).read(entity)
    ours = feature_vectors(rows, np.array([list(request.values())]))[0]
    assert [theirs[name][0] for name in FEATURES] == ours.tolist()


async def test_we_read_feasts_rows(store, config):
    row = filled(CUSTOMER, np.random.default_rng(2), 1)
    frame = pd.DataFrame(
        {
            "customer_id": ["written-by-feast"],
            "event_timestamp": [datetime(2022, 4, 1, tzinfo=UTC)],
            CUSTOMER.name: [row[0].tolist()],
        }
    )
    store.write_to_online_store(CUSTOMER.name, df=frame)
    with Redis.from_url(config.redis) as redis:
        found = OnlineTable(redis, CUSTOMER).load([("written-by-feast",)])
    assert_identical(found, row)


async def test_an_entity_without_events_is_zero_and_a_null_key_is_nan(config):
    rows = await OnlineReader(RedisConnection(config.redis), STATES).read(
        {"customer_id": "nobody", "merchant_id": "nowhere", "device_id": None, "ip": None}
    )
    assert not rows["customer_state"].any()
    for name in ("device_state", "ip_state", "customer_device_state"):
        assert np.isnan(rows[name]).all()


async def test_a_scorers_cache_is_filled_from_the_store(config):
    rng = np.random.default_rng(3)
    keys = {s.name: [tuple(f"{k}-{n}" for k in s.keys) for n in range(500)] for s in STATES}
    rows = {state.name: filled(state, rng, 500) for state in STATES}
    connection, cache = RedisConnection(config.redis), RowCache(STATES)
    with Redis.from_url(config.redis) as redis:
        tables = {state.name: OnlineTable(redis, state) for state in STATES}
        for name, table in tables.items():
            table.clear()
            table.store(keys[name], rows[name])
        await preload(cache, OnlineReader(connection, STATES))
        for state in STATES:
            kept = dict(cache.kept(state.name))
            assert set(kept) == set(keys[state.name])
            found = np.concatenate([kept[key] for key in keys[state.name]])
            assert_identical(found, rows[state.name])
        for table in tables.values():
            table.clear()
    connection.close()


async def test_a_scorers_cache_is_filled_once_redis_is_back(monkeypatch):
    monkeypatch.setattr(row_preload, "_RETRY_S", 0.0)
    rows = {CUSTOMER.name: [(("c",), filled(CUSTOMER, np.random.default_rng(3), 1))]}

    class Away:
        """Does not answer, then breaks off, then answers."""

        scans = 0

        async def scan(self, count):
            self.scans += 1
            if self.scans == 1:
                raise ConnectionError
            yield {}
            if self.scans == 2:
                raise TimeoutError
            yield rows

    reader, cache = Away(), RowCache(STATES)
    await preload(cache, reader)
    assert reader.scans == 3
    assert set(dict(cache.kept(CUSTOMER.name))) == {("c",)}


def test_clearing_a_state_leaves_the_others(config):
    with Redis.from_url(config.redis) as redis:
        pairs, customers = OnlineTable(redis, PAIR), OnlineTable(redis, CUSTOMER)
        pairs.store([("x*", "y?")], filled(PAIR, np.random.default_rng(3), 1))
        customers.store([("x*",)], filled(CUSTOMER, np.random.default_rng(3), 1))
        pairs.clear()
        assert not pairs.load([("x*", "y?")]).any()
        assert customers.load([("x*",)]).any()
