"""The engines as clusters on this machine: the same accounts and configuration, several processes.

For tests of what a killed node does, not for the demo: on one machine a cluster is slower than one
process, and no safer. `whiteboard up` uses what `WHITEBOARD_NATS_HOST`, `WHITEBOARD_REDIS_HOST` and
`WHITEBOARD_S3_ENDPOINT` name, clusters of another machine as well as these.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from infra.local.accounts import Account, quoted, read_accounts, redis_user, redis_users
from infra.local.engines import (
    Program,
    binary,
    nats_conf,
    redis_conf,
    redis_server,
    write_store_conf,
)
from services.platform.access import Access
from services.platform.secret_files import make_private, make_secret, write_private
from services.platform.settings import Settings

_SLOTS = 16_384
# Forms the cluster, and is what a replica is known by at its master.
_FORMER = "cluster-former"
_ROUTES = "nats-routes"
_FORMED_S = 30.0
# How long a node may be silent before the others take over, ms.
_NODE_TIMEOUT_MS = 1_500
# A copy on another server of the same rack.
_REPLICATION = "001"


def _conf(settings: Settings) -> Path:
    return make_private(make_private(settings.home) / "conf")


def _accounts(settings: Settings, services: Mapping[str, Access]) -> list[Account]:
    return read_accounts(settings, services)


def redis_nodes(
    settings: Settings, ports: Sequence[int], services: Mapping[str, Access]
) -> list[Program]:
    """Redis servers of a cluster that `form_redis` has to form; the bus is 10,000 ports higher.

    A server that does not find all slots covered serves those that are.

    Args:
        ports: One a server.
        services: See `infra.local.engines.engines`.
    """
    conf = _conf(settings)
    former = make_secret(settings.home, _FORMER)
    users = redis_users(_accounts(settings, services), of_cluster=True)
    users += redis_user(_FORMER, former, "~* &* +@all")
    programs = []
    for number, port in enumerate(ports, start=1):
        name = f"redis-{number}"
        (settings.home / name).mkdir(parents=True, exist_ok=True)
        own = settings.model_copy(update={"redis_port": port})
        text = f"""{redis_conf(own, users, name)}
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout {_NODE_TIMEOUT_MS}
cluster-require-full-coverage no
masteruser {_FORMER}
masterauth {former}
"""
        write_private(conf / f"{name}.conf", text.encode())
        command = (redis_server()[0], f"{name}.conf")
        programs.append(Program(name, command, {"redis_port": port}, directory=conf))
    return programs


def form_redis(settings: Settings, masters: Sequence[int], replicas: Mapping[int, int]) -> None:
    """Make running servers a cluster, and wait until it serves every slot.

    Args:
        masters: Their ports; each gets an equal part of the slots.
        replicas: By a replica's port, its master's.

    Raises:
        TimeoutError: it does not come up.
        redis.RedisError: a server refuses.
    """
    nodes = {port: _former(settings, port) for port in (*masters, *replicas)}
    bounds = [_SLOTS * number // len(masters) for number in range(len(masters) + 1)]
    for number, port in enumerate(masters):
        first, last = bounds[number], bounds[number + 1] - 1
        nodes[port].execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        nodes[port].execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
    for port in nodes:
        nodes[masters[0]].execute_command("CLUSTER", "MEET", settings.host, port)
    _wait(lambda: all(_known(node) == len(nodes) for node in nodes.values()))
    for port, master in replicas.items():
        known = nodes[master].execute_command("CLUSTER", "MYID")
        _wait(partial(_replicates, nodes[port], str(known)))
    _wait(lambda: all(_is_up(node) for node in nodes.values()))
    for node in nodes.values():
        node.close()


def _former(settings: Settings, port: int) -> Redis:
    password = make_secret(settings.home, _FORMER)
    return Redis(settings.host, port, username=_FORMER, password=password, decode_responses=True)


def _known(node: Redis) -> int:
    return len(_text(node, "NODES").splitlines())


def _replicates(node: Redis, master: str) -> bool:
    try:
        node.execute_command("CLUSTER", "REPLICATE", master)
    except RedisError:  # it has not heard of the master yet
        return False
    return True


def _is_up(node: Redis) -> bool:
    replication: Any = node.info("replication")
    is_linked = replication.get("master_link_status", "up") == "up"
    return is_linked and "cluster_state:ok" in _text(node, "INFO")


def _text(node: Redis, part: str) -> str:
    # Past redis-py's own parsers, which make other things of them.
    connection = node.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", part)
        return str(connection.read_response())
    finally:
        node.connection_pool.release(connection)


def _wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _FORMED_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"the Redis Cluster was not formed within {_FORMED_S:.0f} s")
        time.sleep(0.1)


def nats_nodes(
    settings: Settings,
    ports: Sequence[tuple[int, int, int]],
    services: Mapping[str, Access],
) -> list[Program]:
    """NATS servers of a cluster; they find each other.

    Args:
        ports: For each of them, of clients, of its page, and of the others.
    """
    conf = _conf(settings)
    known = _accounts(settings, services)
    login = f"routes:{make_secret(settings.home, _ROUTES)}"
    routes = [f"nats://{login}@{settings.host}:{port}" for _, _, port in ports]
    user, _, password = login.partition(":")
    programs = []
    for number, (port, page, route) in enumerate(ports, start=1):
        name = f"nats-{number}"
        own = settings.model_copy(update={"nats_port": port, "nats_http_port": page})
        text = f"""{nats_conf(own, known, name)}
server_name: {name}
cluster {{
  name: whiteboard
  host: {quoted(settings.host)}
  port: {route}
  authorization {{ user: {user}, password: {quoted(password)} }}
  routes: [{", ".join(map(quoted, routes))}]
}}
"""
        write_private(conf / f"{name}.conf", text.encode())
        command = (binary("nats-server"), "-c", f"{name}.conf")
        ours = {"nats_port": port, "nats_http_port": page}
        programs.append(Program(name, command, ours, directory=conf))
    return programs


def store_nodes(
    settings: Settings, ports: Sequence[int], services: Mapping[str, Access]
) -> list[Program]:
    """SeaweedFS: a master, a filer with the S3 API, and volume servers that copy each other.

    An object is written to two volume servers, so writes wait while fewer than two are there.

    Args:
        ports: Of the master, the filer, and each volume server; gRPC is 10,000 higher.
    """
    conf = _conf(settings)
    write_store_conf(settings, conf, _accounts(settings, services))
    master, filer, *volumes = ports
    address = (f"-ip={settings.host}", f"-ip.bind={settings.host}")

    def program(name: str, port: int, folder: str, *arguments: str) -> Program:
        (settings.home / folder).mkdir(parents=True, exist_ok=True)
        logs = settings.home / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        command = (binary("weed"), f"-logdir=../logs/{name}", *arguments, *address)
        return Program(name, (*command, f"-port={port}"), {"s3_port": port}, directory=conf)

    programs = [
        program(
            "store-master", master, "s3-master", "master", "-mdir=../s3-master", "-peers=none",
            f"-defaultReplication={_REPLICATION}", "-volumeSizeLimitMB=256",
        )
    ]  # fmt: skip
    for number, port in enumerate(volumes, start=1):
        name = f"store-volume-{number}"
        programs.append(
            program(
                name, port, name, "volume", f"-dir=../{name}", "-max=100",
                f"-master={settings.host}:{master}", "-dataCenter=here", "-rack=one",
            )
        )  # fmt: skip
    programs.append(
        program(
            "store-filer", filer, "s3-filer", "filer", "-defaultStoreDir=../s3-filer",
            f"-master={settings.host}:{master}", f"-defaultReplicaPlacement={_REPLICATION}",
            "-s3", f"-s3.port={settings.s3_port}", "-s3.config=s3.json", "-s3.port.iceberg=0",
        )
    )  # fmt: skip
    return programs
