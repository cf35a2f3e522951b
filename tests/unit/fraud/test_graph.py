"""The graph of one moment: what is in it, and that nothing of the future is."""

import numpy as np
import pytest

from features.spec import DAY
from services.fraud.features import encoder
from services.fraud.features.embeddings import cold, columns, midnights, parameters, place_nights
from services.fraud.features.graph import (
    CUSTOMER,
    MOST_SHARING,
    SHARES,
    Ledger,
    relations,
    snapshot,
)
from services.fraud.features.states import GRAPH, PLACES


@pytest.fixture(scope="module")
def ledger(world):
    return Ledger.of(world.transactions, world.labels)


@pytest.fixture(scope="module")
def at(ledger):
    return midnights(ledger.time.min() + 5 * DAY, ledger.time.max())[0]


def pairs(graph, relation):
    edges = graph.edges[relation]
    receivers = np.repeat(np.arange(len(edges.begin) - 1), np.diff(edges.begin))
    return set(zip(edges.sender.tolist(), receivers.tolist(), strict=True))


def test_edges_are_the_pairs_that_dealt_before(ledger, at):
    graph = snapshot(ledger, at)
    assert set(graph.edges) == set(relations())
    past = ledger.time < at
    customers, devices = ledger.codes["customer_id"], ledger.codes["device_id"]
    there = past & (devices >= 0)
    expected = set(zip(devices[there].tolist(), customers[there].tolist(), strict=True))
    assert pairs(graph, ("device_id", "pays", CUSTOMER)) == expected
    assert pairs(graph, (CUSTOMER, "pays", "device_id")) == {(c, d) for d, c in expected}
    charged = ledger.disputed_at < at
    merchants = ledger.disputed["merchant_id"][charged]
    who = ledger.disputed["customer_id"][charged]
    assert pairs(graph, (CUSTOMER, "disputes", "merchant_id")) == set(
        zip(who.tolist(), merchants.tolist(), strict=True)
    )


def test_customers_share_a_device_with_others_alone(ledger, at):
    found = pairs(snapshot(ledger, at), (CUSTOMER, SHARES, CUSTOMER))
    past = ledger.time < at
    customers, devices = ledger.codes[CUSTOMER][past], ledger.codes["device_id"][past]
    expected = set()
    for device in np.unique(devices[devices >= 0]):
        users = np.unique(customers[devices == device]).tolist()
        if len(users) <= MOST_SHARING:
            expected |= {(a, b) for a in users for b in users if a != b}
    assert expected
    assert found == expected


def test_the_future_changes_nothing(world, ledger, at):
    """The snapshot of a lake that ends at the moment is the snapshot of one that goes on."""
    rows = world.transactions.filter(ledger.time < at)
    stopped = Ledger.of(rows, world.labels.filter(labels_before(world.labels, at)))
    full, short = snapshot(ledger, at), snapshot(stopped, at)
    assert full.seq == short.seq
    for entity, names in stopped.names.items():
        places = {name: i for i, name in enumerate(ledger.names[entity])}
        same = [places[name] for name in names]
        assert np.allclose(full.nodes[entity][same], short.nodes[entity])


def labels_before(labels, at):
    from services.fraud.retraining.training import times

    return times(labels) < at


def test_places_depend_on_company_alone_and_unseen_parties_have_none(world, ledger, at):
    lessons = world.lessons(ledger)
    made = encoder.train(ledger, lessons, [at], {**parameters(), "epochs": 1}, 0, quiet)
    graph = snapshot(ledger, at)
    placed = encoder.place(made, graph)
    for entity, values in placed.items():
        assert values.shape == (len(ledger.names[entity]), 8)
        assert (np.isnan(values).all(axis=1) == ~graph.seen[entity]).all()
        assert np.nanmax(np.abs(values)) <= 1.0
    [night] = place_nights(made, ledger, [at], quiet)
    found = columns(ledger, [night])
    today = ledger.within(at, at + DAY)
    assert found.shape == (len(ledger.seq), len(PLACES))
    assert np.isnan(found[: today[0]]).all()
    customer = found[today, :8]
    assert np.array_equal(customer, placed["customer_id"][ledger.codes["customer_id"][today]],
                          equal_nan=True)  # fmt: skip
    absent = np.isnan(found[today].reshape(-1, len(GRAPH), 8)[:, :, 0]).any(axis=1)
    assert (cold(ledger, [night])[today] <= absent).all()
    assert cold(ledger, [night])[today].any()


def quiet(*_):
    pass
