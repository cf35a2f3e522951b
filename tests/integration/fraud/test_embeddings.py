"""Graph embeddings read what their graphs are of, and no more."""

from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from redis import Redis

from features.online.table import OnlineTable
from features.spec import DAY, SEQ, TIME
from features.state_log import log_folder
from services.fraud.features import embeddings, graph
from services.fraud.features.embedding_log import midnights
from services.fraud.features.encoder import Encoder
from services.fraud.features.graph import TransactionLog, graph_snapshot, relations
from services.fraud.features.states import EMBEDDINGS
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import LABELS_TABLE, STATE_LOG, TRANSACTIONS_TABLE
from services.platform.storage.lake import Lake
from services.platform.torch.training import dump_weights


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


class NoBar:
    """A progress bar that shows nothing."""

    def __call__(self, _):
        return nullcontext(lambda *_: None)


def later(rows, days, seqs, feed, prefix):
    """Transactions of another feed: as many days later, of other parties, received after others."""
    moved = pc.add(rows["event_time"], pa.scalar(timedelta(days=days), pa.duration("us")))
    changed = {
        "event_time": moved.cast(pa.timestamp("us", "UTC")),
        "seq": pc.add(rows["seq"], seqs),
        "feed": pa.array([feed] * len(rows), pa.string()),
        "customer_id": pc.binary_join_element_wise(prefix, rows["customer_id"], ""),
    }
    for name, column in changed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


@pytest.fixture
def encoder(lake):
    made = Encoder(embeddings.encoder_hyperparameters())
    lake.put(embeddings.ENCODER, dump_weights(made))
    yield
    lake.remove(["models", STATE_LOG])


def online(config, view, key):
    with Redis.from_url(config.redis) as redis:
        return OnlineTable(redis, view).load([(key,)])[0]


def test_each_feed_is_refreshed_at_its_own_time(config, lake, simulated, encoder):
    """A file of a later year does not stop the clock of live traffic."""
    view = next(v for v in EMBEDDINGS if v.keys == ("customer_id",))
    live = simulated.transactions
    lake.write(TRANSACTIONS_TABLE, later(live, 400, 10**6, "file", "f"), "2")
    logged = f"{STATE_LOG}/{log_folder(view)}"
    assert embeddings.refresh(config, lake, NoBar()) > 0
    now = event_times(live).max()
    customer = live["customer_id"][-1].as_py()
    first = online(config, view, customer)
    assert first[TIME] == pytest.approx(now, abs=1.0)
    assert online(config, view, f"f{customer}")[TIME] == pytest.approx(now + 400 * DAY, abs=1.0)
    assert len(lake.files(logged)) == 2

    lake.write(TRANSACTIONS_TABLE, later(live, 1, 2 * 10**6, "", ""), "3")
    file_written = [info.mtime_ns for info in lake.infos(logged)]
    assert embeddings.refresh(config, lake, NoBar()) > 0
    assert online(config, view, customer)[TIME] == pytest.approx(now + DAY, abs=1.0)
    assert online(config, view, f"f{customer}")[TIME] == pytest.approx(now + 400 * DAY, abs=1.0)
    # The file's feed has nothing new: its snapshot is not computed again.
    assert len(lake.files(logged)) == 3
    assert set(file_written) < {info.mtime_ns for info in lake.infos(logged)}
    assert embeddings.refresh(config, lake, NoBar()) == 0


def test_an_older_feeds_snapshot_does_not_replace_a_newer_one(config, lake, simulated, encoder):
    """Parties of two feeds have the embedding of the feed that arrived last."""
    view = next(v for v in EMBEDDINGS if v.keys == ("customer_id",))
    live = simulated.transactions
    lake.write(TRANSACTIONS_TABLE, later(live, -400, 10**6, "file", ""), "2")
    embeddings.refresh(config, lake, NoBar())
    customer = live["customer_id"][-1].as_py()
    assert online(config, view, customer)[SEQ] > 10**6
    lake.write(TRANSACTIONS_TABLE, later(live, 1, 2 * 10**6, "", ""), "3")
    embeddings.refresh(config, lake, NoBar())
    assert online(config, view, customer)[SEQ] > 2 * 10**6


def test_nights_are_those_of_the_feeds(lake, simulated):
    """Between the years of two feeds nothing happened, so there are no snapshots."""
    live = simulated.transactions
    alone = embeddings._nights(lake, 0.0)
    assert alone == midnights(event_times(live).min(), event_times(live).max() + 1.0)
    lake.write(TRANSACTIONS_TABLE, later(live, 400, 10**6, "file", "f"), "2")
    assert len(embeddings._nights(lake, 0.0)) == 2 * len(alone)


def test_an_empty_lake_is_an_error(config):
    with pytest.raises(ValueError, match="no labelled transactions yet"):
        embeddings.read_transaction_log(Lake(config), DAY)
