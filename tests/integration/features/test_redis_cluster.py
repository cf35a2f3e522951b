"""The online store in a Redis Cluster: slots, redirections, killed nodes, fences by shard."""

import asyncio

import numpy as np
import pytest
from hiredis import ReplyError
from redis import Redis
from redis.exceptions import RedisError

from features.cluster.clients import open_link, open_redis, row_store
from features.cluster.link import ClusterLink
from features.cluster.rows import ClusterRowStore
from features.cluster.shards import hash_tag, key_slot, shard_number
from features.online.layout import RowLayout
from features.online.reader import OnlineReader
from features.online.replies import ROW_ERRORS
from features.online.row_store import Fence, Superseded
from features.online.table import OnlineTable
from features.spec import SEQ, TIME
from infra.local.clusters import _former
from services.fraud.features.states import CUSTOMER, STATES
from tests.clusters import redis_cluster
from tests.conftest import make_settings
from tests.integration.conftest import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with redis_cluster(make_settings(tmp_path_factory.mktemp("cluster")), {}) as made:
        yield made


@pytest.fixture
async def link(cluster):
    made = open_link(cluster[0])
    assert isinstance(made, ClusterLink)
    yield made
    made.close()


def rows_of(count: int, seq: float = 1.0) -> np.ndarray:
    rows = np.zeros((count, CUSTOMER.width))
    rows[:, SEQ], rows[:, TIME] = seq, 1.7e9
    return rows


def admin(config, number: int) -> Redis:
    host, port = config.redis_host.split(",")[number].split(":")
    assert host == "127.0.0.1"
    return _former(config, int(port))


def test_slots_are_redis_own(cluster):
    node = admin(cluster[0], 0)
    keys = [
        b"a",
        b"{7}row",
        b"a{b}c{d}",
        b"{}x",
        b"a{}b{c}",
        b"{unclosed",
        b"\xff{\x00\xfe}",
        b"}{",
    ]
    keys += [RowLayout.of(s, 16).key(("c1", "d2")[: len(s.keys)]) for s in STATES]
    assert [key_slot(key) for key in keys] == [
        node.execute_command("CLUSTER KEYSLOT", key) for key in keys
    ]


async def test_rows_are_read_and_written_wherever_they_lie(cluster, link):
    config, _ = cluster
    keys = [(f"c{n}",) for n in range(100)]
    with open_redis(config) as redis:
        table = OnlineTable(redis, CUSTOMER)
        table.store(keys, rows_of(100))
        assert sorted(table.entities()) == sorted(keys)
        assert (table.load(keys) == rows_of(100)).all()
        reader = OnlineReader(link, [CUSTOMER])
        for key in keys:
            found = await reader.read({"customer_id": key[0]})
            assert (found[CUSTOMER.name] == rows_of(1)).all()
        pages = [page[CUSTOMER.name] async for page in reader.scan(10)]
        assert sorted(key for page in pages for key, _ in page) == sorted(keys)
        table.clear()
        assert not list(table.entities())


async def test_a_call_asks_each_node_once(link, monkeypatch):
    await link.open()
    calls = []
    for node in link.nodes:
        original = node.results
        monkeypatch.setattr(
            node, "results", lambda *a, original=original: calls.append(a) or original(*a)
        )
    replies = await link.results([("HGET", f"{{{n}}}x", "f") for n in range(16)])
    assert replies == [None] * 16
    assert len(calls) == len(link.nodes) == 3


async def test_a_slot_that_moves_is_followed_there_and_back(cluster, link):
    config, _ = cluster
    await link.open()
    slot = key_slot(b"{moving}")
    ids = [admin(config, n).execute_command("CLUSTER MYID") for n in range(3)]
    at = min(slot // (16_384 // 3), 2)
    to = (at + 1) % 3
    await link.execute([("HSET", "{moving}a", "f", "1")])
    admin(config, to).execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[at])
    admin(config, at).execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to])
    # ASK: a new key is at the other node already.
    await link.execute([("HSET", "{moving}b", "f", "2"), ("HSET", "{moving}c", "f", "3")])
    assert await link.execute(
        [("HGET", "{moving}a", "f"), ("HGET", "{moving}b", "f"), ("HGET", "{moving}c", "f")]
    ) == [b"1", b"2", b"3"]
    host, port = config.redis_host.split(",")[to].split(":")
    admin(config, at).execute_command(
        "MIGRATE", host, port, "{moving}a", 0, 1000, "AUTH2", "cluster-former",
        admin(config, 0).connection_pool.connection_kwargs["password"],
    )  # fmt: skip
    for number in (to, at):
        admin(config, number).execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to])
    assert await link.execute([("HGET", "{moving}a", "f"), ("HGET", "{moving}b", "f")]) == [
        b"1", b"2",
    ]  # fmt: skip
    await until(lambda: link._owner(slot).address[1] == int(port))


async def test_a_key_of_another_type_is_one_entitys_trouble(cluster, link):
    config, _ = cluster
    layout = RowLayout.of(CUSTOMER, config.shards)
    with open_redis(config) as redis:
        OnlineTable(redis, CUSTOMER).store([("good",)], rows_of(1))
        redis.delete(layout.key(("bad",)))
        redis.set(layout.key(("bad",)), "no row")
        reader = OnlineReader(link, [CUSTOMER])
        assert await reader.read({"customer_id": "bad"}) == {}
        assert CUSTOMER.name in await reader.read({"customer_id": "good"})
        store = row_store(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))
        assert isinstance(store, ClusterRowStore)
        await store.claim(range(config.shards))
        keys = store.row_keys({CUSTOMER.name: [("bad",), ("good",)]})
        rows = await store.read(keys)
        assert np.isnan(rows[CUSTOMER.name][0]).all()
        await store.write(
            keys, {CUSTOMER.name: np.where(np.isnan(rows[CUSTOMER.name]), np.nan, rows_of(2, 9.0))}
        )
        assert not store.blocked
        assert OnlineTable(redis, CUSTOMER).load([("good",)])[0, SEQ] == 9.0
        redis.delete(layout.key(("bad",)))


async def test_only_the_process_that_claimed_a_shard_writes_it(cluster, link):
    config, _ = cluster
    old = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"old"}, ("p", "me")))
    new = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"new"}, ("p", "me")))
    await old.claim(range(config.shards))
    keys = old.row_keys({CUSTOMER.name: [(f"w{n}",) for n in range(40)]})
    await old.read(keys)
    await old.write(keys, {CUSTOMER.name: rows_of(40, 1.0)})
    await new.claim([shard_number("w7", config.shards)])
    with pytest.raises(Superseded):
        await old.write(keys, {CUSTOMER.name: rows_of(40, 2.0)})
    with open_redis(config) as redis:
        found = OnlineTable(redis, CUSTOMER).load([("w7",)])
    assert found[0, SEQ] == 1.0


async def test_a_full_node_blocks_its_shards_only(cluster, link):
    config, _ = cluster
    store = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))
    await store.claim(range(config.shards))
    keys = store.row_keys({CUSTOMER.name: [(f"o{n}",) for n in range(200)]})
    admin(config, 1).execute_command("CONFIG SET maxmemory 1")
    try:
        await store.read(keys)
        await store.write(keys, {CUSTOMER.name: rows_of(200, 3.0)})
        full = await link.connection(hash_tag(next(iter(store.blocked))))
        for shard in range(config.shards):
            is_full = await link.connection(hash_tag(shard)) == full
            assert (shard in store.blocked) == is_full
        assert not await store.is_mended()
        # What the full node has is readable.
        rows = await store.read(keys)
        assert not np.isnan(rows[CUSTOMER.name]).any()
        with open_redis(config) as redis:
            written = OnlineTable(redis, CUSTOMER).load([(f"o{n}",) for n in range(200)])[:, SEQ]
        assert {0.0, 3.0} == set(written)
    finally:
        admin(config, 1).execute_command("CONFIG SET maxmemory 0")
    assert await store.is_mended()
    await store.claim(range(config.shards))
    await store.write(keys, {CUSTOMER.name: rows_of(200, 3.0)})
    assert not store.blocked


@pytest.mark.parametrize("kind", ["kill", "hang"])
async def test_a_node_that_is_away_is_its_entities_trouble_and_mends(cluster, link, kind):
    config, engines = cluster
    store = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))
    await store.claim(range(config.shards))
    entities = [(f"k{n}",) for n in range(60)]
    keys = store.row_keys({CUSTOMER.name: entities})
    await store.write(keys, {CUSTOMER.name: rows_of(60, 1.0)})
    reader = OnlineReader(link, [CUSTOMER])

    async def missing() -> int:
        found = [await reader.read({"customer_id": key}, 0.1) for (key,) in entities]
        return sum(not one for one in found)

    assert await missing() == 0
    (engines.kill if kind == "kill" else engines.hang)("redis-2")
    lost = await missing()
    assert 0 < lost < 45
    begin = asyncio.get_running_loop().time()
    assert await missing() == lost
    # Known to be away: not asked any more.
    assert asyncio.get_running_loop().time() - begin < 1.0
    assert len(link.away) == 1
    (engines.start if kind == "kill" else engines.resume)("redis-2")

    async def mended():
        return await missing() == 0

    await until(mended, 20)
    assert not link.away


async def test_a_moved_to_a_node_that_does_not_exist_is_one_entitys_trouble(link, monkeypatch):
    await link.open()
    for node in link.nodes:
        original = node.results

        async def results(commands, timeout_s=5.0, session=None, original=original):
            found = await original(commands, timeout_s, session)
            return [
                ReplyError("MOVED 1 127.0.0.1:9") if command[1] == "{odd}x" else reply
                for command, reply in zip(commands, found, strict=True)
            ]

        monkeypatch.setattr(node, "results", results)
    good, odd = await link.results([("HGET", "{a}x", "f"), ("HGET", "{odd}x", "f")], 0.2)
    assert good is None
    assert isinstance(odd, OSError | RedisError)
    monkeypatch.undo()

    async def mended():
        return await link.results([("HGET", "{odd}x", "f")]) == [None]

    await until(mended)


async def test_acknowledged_rows_outlive_their_master(cluster, link):
    """redis-1 has a replica, which takes over; what was written before is there, and is written."""
    config, engines = cluster
    store = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))

    async def claimed():
        await store.claim(range(config.shards))
        return not store.blocked

    await until(claimed, 20)
    entities = [(f"r{n}",) for n in range(200)]
    keys = store.row_keys({CUSTOMER.name: entities})
    for seq in range(1, 6):
        await store.read(keys)
        await store.write(keys, {CUSTOMER.name: rows_of(200, float(seq))})
    assert not store.blocked
    engines.kill("redis-1")
    await store.read(keys)
    assert store.blocked

    await until(store.is_mended, 30)
    await until(claimed, 30)
    rows = await store.read(keys)
    assert (rows[CUSTOMER.name][:, SEQ] == 5.0).all()
    await store.write(keys, {CUSTOMER.name: rows_of(200, 6.0)})
    assert not store.blocked
    engines.start("redis-1")


async def test_a_node_that_comes_back_empty_is_noticed(cluster, link):
    config, engines = cluster
    store = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))

    async def all_claimed():
        return len(await store.claim(range(config.shards))) == config.shards

    await until(all_claimed, 20)
    engines.kill("redis-3")
    for file in (config.home / "redis-3").glob("appendonly*"):
        file.unlink()
    engines.start("redis-3")
    known = frozenset(range(config.shards))

    async def lost():
        await store.claim(range(config.shards), known)
        return ROW_ERRORS.labels("lost")._value.get()

    await until(lost, 20)
    assert 0 < len(store.blocked) < config.shards / 2
    assert not await store.is_mended()
    await until(all_claimed, 20)  # once its rows are made anew


async def test_a_shard_that_lost_acknowledged_rows_is_not_written(cluster, link):
    config, _ = cluster
    store = ClusterRowStore(link, [CUSTOMER], Fence("f", {"owner": b"me"}, ("p", "me")))

    async def all_claimed():
        return len(await store.claim(range(config.shards))) == config.shards

    await until(all_claimed, 20)
    keys = store.row_keys({CUSTOMER.name: [("l1",)]})
    await store.write(keys, {CUSTOMER.name: rows_of(1, 5.0)}, 5)
    shard = shard_number("l1", config.shards)
    # As after a restart from a file that is two seconds old.
    await link.execute([("HSET", f"{{{shard}}}p", "me", "3")])
    await store.write(keys, {CUSTOMER.name: rows_of(1, 6.0)}, 6)
    assert store.blocked == {shard}
    positions = await link.execute([("HGET", f"{{{n}}}p", "me") for n in range(config.shards)])
    assert positions == [b"3" if n == shard else b"6" for n in range(config.shards)]
