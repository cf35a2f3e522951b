"""NATS as three servers: copies of streams, and clients and the outbox when a server dies."""

import asyncio

import pytest

from infra.local.clusters import nats_nodes
from services.platform.settings import Settings
from services.platform.streaming.connection import connect, ensure_bucket, ensure_stream
from services.platform.streaming.consumer import OrderedConsumer, consume
from services.platform.streaming.outbox import Outbox
from tests.clusters import Engines
from tests.conftest import consecutive_ports, make_settings
from tests.integration.conftest import until

pytestmark = pytest.mark.slow

STREAM = "FRAUD"


@pytest.fixture
def cluster(tmp_path):
    first = consecutive_ports(9)
    ports = [(first + 3 * n, first + 3 * n + 1, first + 3 * n + 2) for n in range(3)]
    hosts = ",".join(f"127.0.0.1:{port}" for port, _, _ in ports)
    changes = {"nats_host": hosts, "nats_replicas": 3}
    config = make_settings(tmp_path).model_copy(update=changes)
    engines = Engines(nats_nodes(config, ports, {}), tmp_path)
    yield config, engines
    engines.stop()


async def made(config: Settings):
    """A connection, once the servers have elected a leader and made the stream."""
    nc = await connect(config, "test", 30.0)

    async def is_there() -> bool:
        try:
            await ensure_stream(nc.jetstream(), STREAM, ["fraud.tx.>"])
            await ensure_bucket(nc.jetstream(), "notes")
        except Exception:
            return False
        return True

    await until(is_there, 40)
    return nc


async def test_the_outbox_loses_and_doubles_nothing_when_its_server_dies(cluster, tmp_path):
    config, engines = cluster
    nc = await made(config)
    js = nc.jetstream()
    for name in (STREAM, "KV_notes"):
        assert (await js.stream_info(name)).config.num_replicas == 3
    outbox = Outbox(nc, tmp_path / "outbox", 1_000, 1 << 24)
    outbox.start()
    seen: list[str] = []

    async def handle(batch) -> None:
        seen.extend(message.data.decode() for message in batch)

    reader = await connect(config, "reader", 30.0)
    consumer = OrderedConsumer(reader, STREAM, "reader")
    reading = asyncio.create_task(consume(consumer, handle))
    connected = nc.connected_url.port
    number = [int(host.rpartition(":")[2]) for host in config.nats_host.split(",")].index(connected)
    for n in range(1_200):
        outbox.put("fraud.tx.1.1.1.1", f"id-{n}", str(n).encode())
        if n == 400:
            await asyncio.sleep(0.2)
            engines.kill(f"nats-{number + 1}")
        if n % 20 == 0:
            await asyncio.sleep(0.05)

    async def stored() -> bool:
        try:
            return outbox.depth == 0 and (await js.stream_info(STREAM)).state.messages == 1_200
        except Exception:
            return False

    await until(stored, 60)
    assert outbox.dropped == 0
    assert nc.connected_url.port != connected
    await until(lambda: reading.done() or len(set(seen)) == 1_200, 60)
    assert {int(one) for one in seen} == set(range(1_200))
    reading.cancel()
    await outbox.close()
    await nc.close()
    await reader.close()
