"""Graph embeddings read what their graphs are of, and no more."""

import numpy as np
import pytest

from features.spec import DAY
from services.fraud.features import embeddings, graph
from services.fraud.features.embedding_log import midnights
from services.fraud.features.graph import TransactionLog, graph_snapshot, relations
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.platform.storage.lake import Lake


@pytest.fixture
def lake(config, simulated):
    lake = Lake(config)
    lake.write(TRANSACTIONS_TABLE, simulated.transactions, "1")
    lake.write(LABELS_TABLE, simulated.labels, "1")
    yield lake
    lake.remove([TRANSACTIONS_TABLE, LABELS_TABLE])


def named_edges(log, at, relation):
    sender, _, receiver = relation
    edges = graph_snapshot(log, at).edges[relation]
    to = np.repeat(np.arange(len(edges.indptr) - 1), np.diff(edges.indptr))
    names = log.keys[sender][edges.indices], log.keys[receiver][to]
    return set(zip(*(part.tolist() for part in names), strict=True))


def test_a_graph_is_the_same_from_the_transactions_of_its_window(lake, simulated, monkeypatch):
    for module in (embeddings, graph):
        monkeypatch.setattr(module, "WINDOW_DAYS", 3)
    full = TransactionLog.of(simulated.transactions, simulated.labels)
    at = midnights(full.time.min() + 4 * DAY, full.time.max())[0]
    part = embeddings.read_transaction_log(lake, at)
    assert part.time.min() >= at - 3 * DAY > full.time.min()
    assert part.seq.max() == full.seq.max()
    for relation in relations():
        assert named_edges(part, at, relation) == named_edges(full, at, relation), relation


def test_the_newest_time_is_that_of_the_feed(lake, simulated):
    log = TransactionLog.of(simulated.transactions, simulated.labels)
    assert embeddings._newest(lake) == pytest.approx(log.time.max(), abs=1e-5)


def test_an_empty_lake_is_an_error(config):
    with pytest.raises(ValueError, match="no labelled transactions yet"):
        embeddings.read_transaction_log(Lake(config), DAY)
