"""The graph snapshot: its edges, and that later events do not change it."""

import numpy as np
import pytest

from features.spec import DAY
from services.fraud.features import encoder
from services.fraud.features.embedding_log import cold_start, midnights, write_embedding_columns
from services.fraud.features.embeddings import embed_at, encoder_hyperparameters
from services.fraud.features.graph import (
    CUSTOMER,
    MAX_SHARING,
    SHARES,
    TransactionLog,
    graph_snapshot,
    relations,
)
from services.fraud.features.states import EMBEDDING_FEATURES, EMBEDDINGS


@pytest.fixture(scope="module")
def log(simulated):
    return TransactionLog.of(simulated.transactions, simulated.labels)


@pytest.fixture(scope="module")
def at(log):
    return midnights(log.time.min() + 5 * DAY, log.time.max())[0]


def pairs(graph, relation):
    edges = graph.edges[relation]
    receivers = np.repeat(np.arange(len(edges.indptr) - 1), np.diff(edges.indptr))
    return set(zip(edges.indices.tolist(), receivers.tolist(), strict=True))


def test_edges_are_the_pairs_of_earlier_transactions(log, at):
    graph = graph_snapshot(log, at)
    assert set(graph.edges) == set(relations())
    past = log.time < at
    customers, devices = log.codes["customer_id"], log.codes["device_id"]
    there = past & (devices >= 0)
    expected = set(zip(devices[there].tolist(), customers[there].tolist(), strict=True))
    assert pairs(graph, ("device_id", "pays", CUSTOMER)) == expected
    assert pairs(graph, (CUSTOMER, "pays", "device_id")) == {(c, d) for d, c in expected}
    charged = log.chargeback_time < at
    merchants = log.chargeback_codes["merchant_id"][charged]
    who = log.chargeback_codes["customer_id"][charged]
    assert pairs(graph, (CUSTOMER, "disputes", "merchant_id")) == set(
        zip(who.tolist(), merchants.tolist(), strict=True)
    )


def test_sharing_edges_join_different_customers(log, at):
    found = pairs(graph_snapshot(log, at), (CUSTOMER, SHARES, CUSTOMER))
    past = log.time < at
    customers, devices = log.codes[CUSTOMER][past], log.codes["device_id"][past]
    expected = set()
    for device in np.unique(devices[devices >= 0]):
        users = np.unique(customers[devices == device]).tolist()
        if len(users) <= MAX_SHARING:
            expected |= {(a, b) for a in users for b in users if a != b}
    assert expected
    assert found == expected


def test_later_events_change_nothing(simulated, log, at):
    """The snapshot is the same whether the lake ends at that moment or goes on."""
    rows = simulated.transactions.filter(log.time < at)
    stopped = TransactionLog.of(rows, simulated.labels.filter(labels_before(simulated.labels, at)))
    full, short = graph_snapshot(log, at), graph_snapshot(stopped, at)
    assert full.last_seq == short.last_seq
    for entity, keys in stopped.keys.items():
        indices = {key: i for i, key in enumerate(log.keys[entity])}
        same = [indices[key] for key in keys]
        assert np.allclose(full.nodes[entity][same], short.nodes[entity])


def labels_before(labels, at):
    from services.fraud.ingestion.columns import event_times

    return event_times(labels) < at


def test_parties_without_edges_have_no_embedding(simulated, log, at):
    examples = simulated.encoder_examples(log)
    trained = encoder.train(
        log, examples, [at], {**encoder_hyperparameters(), "epochs": 1}, 0, quiet
    )
    graph = graph_snapshot(log, at)
    embedded = encoder.embed(trained, graph)
    for entity, values in embedded.items():
        assert values.shape == (len(log.keys[entity]), 8)
        assert (np.isnan(values).all(axis=1) == ~graph.has_edge[entity]).all()
        assert np.nanmax(np.abs(values)) <= 1.0
    [snapshot] = embed_at(trained, log, [at], quiet)
    today = log.within(at, at + DAY)
    found, of_today = (
        embedding_columns(log, rows, snapshot) for rows in (np.arange(len(log.seq)), today)
    )
    assert np.array_equal(of_today, found[today], equal_nan=True)
    assert np.isnan(found[: today[0]]).all()
    customer = found[today, :8]
    assert np.array_equal(customer, embedded["customer_id"][log.codes["customer_id"][today]],
                          equal_nan=True)  # fmt: skip
    absent = np.isnan(found[today].reshape(-1, len(EMBEDDINGS), 8)[:, :, 0]).any(axis=1)
    cold = cold_start(log, today, found[today])
    assert (cold <= absent).all()
    assert cold.any()


def embedding_columns(log, rows, snapshot):
    out = np.zeros((len(rows), len(EMBEDDING_FEATURES)), np.float32)
    write_embedding_columns(log, rows, [snapshot], out)
    return out


def quiet(*_):
    pass
