"""Engines as clusters, for a test: started, killed and started again by name."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.local.clusters import form_redis, redis_nodes
from infra.local.engines import Program
from services.platform.access import Access
from services.platform.settings import Settings
from tests.conftest import consecutive_ports, start_engine


class Engines:
    """Running servers by name."""

    def __init__(self, programs: Sequence[Program], logs: Path) -> None:
        self._programs = {program.name: program for program in programs}
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._programs:
            self.start(name)

    def start(self, name: str) -> None:
        self._running[name] = start_engine(self._programs[name], self._logs)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait(20)

    def hang(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def stop(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
                process.wait(20)


@contextmanager
def redis_cluster(
    beside: Settings, services: Mapping[str, Access]
) -> Iterator[tuple[Settings, Engines]]:
    """Three masters, redis-1 to redis-3, and redis-4, a replica of redis-1.

    Args:
        beside: Settings of an installation, which are changed to the cluster's.
        services: Accounts of services.
    """
    first = consecutive_ports(4)
    ports = [first + number for number in range(4)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports[:3])
    config = beside.model_copy(update={"redis_host": hosts})
    engines = Engines(redis_nodes(config, ports, services), config.home)
    try:
        form_redis(config, ports[:3], dict.fromkeys(ports[3:], ports[0]))
        yield config, engines
    finally:
        engines.stop()
