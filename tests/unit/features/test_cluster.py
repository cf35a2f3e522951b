"""Parts of the Redis Cluster's client that need no server: URLs, maps of slots, keys by shard."""

import asyncio

import pytest

from features.cluster.link import ClusterLink
from features.cluster.shards import key_slot, tagged_shard
from features.cluster.topology import ClusterUrl, read_ranges, read_redirection
from features.online.layout import RowLayout
from services.fraud.features.states import EMBEDDINGS, STATES
from services.fraud.ingestion.events import shard

ASKED = ("h", 1)


@pytest.mark.parametrize(
    "url", ["redis://a:1/0", "redis+cluster://", "redis+cluster://u:p@", "redis+cluster://a:x,b:1"]
)
def test_a_wrong_url_is_named_without_its_password(url):
    with pytest.raises(ValueError, match="Redis Cluster") as raised:
        ClusterUrl.parse(url)
    assert "u:p" not in str(raised.value)


def test_a_url_gives_each_nodes_own():
    url = ClusterUrl.parse("rediss+cluster://me:p%40ss@a,[::1]:7001")
    assert [url.node(seed) for seed in url.seeds] == [
        "rediss://me:p%40ss@a:6379/0",
        "rediss://me:p%40ss@[::1]:7001/0",
    ]


def test_a_map_of_slots():
    reply = [[0, 99, [b"a", 1, b"id"], [b"b", 2, b"id"]], [100, 16_383, [b"", 3, b"id"]]]
    found = read_ranges(reply, ASKED)
    assert [(r.first, r.last, r.master, r.replicas) for r in found] == [
        (0, 99, ("a", 1), 1),
        (100, 16_383, ("h", 3), 0),
    ]


@pytest.mark.parametrize(
    "reply", [[b"OK"], [[0]], [[0, 99, b"a"]], [[0, 99_999, [b"a", 1]]], [[5, 1, [b"a", 1]]], 7]
)
def test_a_map_of_slots_that_is_none(reply):
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        read_ranges(reply, ASKED)


@pytest.mark.parametrize(
    "error", ["", "MOVED", "MOVED x y", "MOVED 1", "MOVED 99999 a:1", "ASK 1 a:", "OOM command"]
)
def test_other_errors_redirect_nowhere(error):
    assert read_redirection(error, ASKED) is None


@pytest.mark.parametrize("view", [*STATES, *EMBEDDINGS], ids=lambda view: view.name)
@pytest.mark.parametrize("entity", ["c1", "", "{x}", "}", "a{b", "é"])
def test_a_row_lies_in_the_slot_of_its_shard(view, entity):
    layout, plain = RowLayout.of(view, 16), RowLayout.of(view)
    values = (entity, "other}")[: len(view.keys)]
    key = layout.key(values)
    number = tagged_shard(key)
    assert number == int(shard(values[view.keys.index(view.shard)], 16))
    assert key == b"{%d}" % number + plain.key(values)
    assert key_slot(key) == key_slot(b"{%d}" % number)
    assert layout.entity(key) == plain.entity(plain.key(values)) == values
    assert layout.holds(key)
    assert not layout.holds(b"{1}other")


async def test_a_cluster_without_a_node_says_so():
    link = ClusterLink("redis+cluster://127.0.0.1:9,127.0.0.1:10", 16)
    with pytest.raises(OSError, match="no map of the cluster's slots"):
        await link.results([("HGET", "a", "b")], 1.0)
    link.close()
    await asyncio.sleep(0)
