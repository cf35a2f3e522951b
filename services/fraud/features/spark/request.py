"""What a backfill on Spark is asked, and what the command line may get wrong about it."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil

OLDEST_JAVA = 17
# Spark refuses to start below 450 MB of heap.
MIN_MEMORY_MB = 512
# Beside the heap: the JVM's own, and each core's Python worker with one chunk and its shard's rows.
# Measured at 10 million events: docs/spark.md.
_JVM_MB = 350
_WORKER_MB = 450

_MASTER_TIMEOUT_S = 5.0
_LOCAL = re.compile(r"local(?:\[(\d+|\*)\])?")
_ADDRESS = re.compile(r"[^:/]+:\d{1,5}")
_FORMS = "local[N], spark://host:port or k8s://https://host:port"


@dataclass(frozen=True)
class SparkRequest:
    """How to run the backfill.

    Attributes:
        master: local[N], spark://host:port or k8s://https://host:port.
        memory_mb: Heap of the driver's JVM, which does all the work of a local master.
        shards: Partitions of each job; 0 chooses by the number of events.
        state_log: Whether to write the state log, too.
        options: Further options of Spark, by name.
    """

    master: str = "local[2]"
    memory_mb: int = 1024
    shards: int = 0
    state_log: bool = True
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether executors are threads of the driver's JVM."""
        return _LOCAL.fullmatch(self.master) is not None


def check(request: SparkRequest) -> None:
    """Find out what is missing before anything is started.

    Raises:
        ValueError: PySpark or Java is missing, the master's name is of no known form, or there is
            too little memory. The message says what to do.
        ConnectionError: the master does not answer.
    """
    if find_spec("pyspark") is None:
        raise ValueError("PySpark is not installed: `make spark-setup`")
    _check_java()
    cores = _check_master(request.master)
    _check_memory(request.memory_mb, cores)


def java() -> str | None:
    """The path of `java`: of JAVA_HOME if set, else of `infra/tools.sh java` or on the PATH."""
    home = os.environ.get("JAVA_HOME")
    if home:
        return shutil.which("java", path=str(Path(home) / "bin"))
    return str(own_java()) if own_java().exists() else shutil.which("java")


def own_java() -> Path:
    """Where `infra/tools.sh java` puts `java`: in this virtual environment."""
    return Path(sys.prefix) / "java" / "bin" / "java"


def java_version(text: str) -> int:
    """The major version that `java -version` prints, 0 if it is not found.

    >>> java_version('openjdk version "17.0.15" 2025-04-15'), java_version('java version "1.8.0"')
    (17, 8)
    """
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else 0


def _check_java() -> None:
    program = java()
    remedy = "`infra/tools.sh java` brings one, or `apt-get install openjdk-17-jre-headless`"
    if program is None:
        where = "JAVA_HOME has none" if os.environ.get("JAVA_HOME") else "there is none here"
        raise ValueError(f"Spark needs Java {OLDEST_JAVA} or newer, and {where}: {remedy}")
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    version = java_version(printed.stderr)
    if version < OLDEST_JAVA:
        shown = f"is Java {version}" if version else "does not run"
        raise ValueError(
            f"Spark needs Java {OLDEST_JAVA} or newer, and {program} {shown}: {remedy}"
        )


def _check_master(master: str) -> int:
    """Check a master. Returns how many cores of this machine it takes."""
    if local := _LOCAL.fullmatch(master):
        cores = os.cpu_count() or 1 if local[1] == "*" else int(local[1] or 1)
        if cores < 1:
            raise ValueError(f"--master {master}: at least one core")
        return cores
    if master.startswith("spark://"):
        addresses = master.removeprefix("spark://").split(",")
        if not all(_ADDRESS.fullmatch(one) for one in addresses):
            raise ValueError(f"--master {master!r} is not of the form {_FORMS}")
    elif master.startswith("k8s://"):
        url = urlsplit(master.removeprefix("k8s://"))
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"--master {master!r} is not of the form {_FORMS}")
        addresses = [f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"]
    else:
        raise ValueError(f"--master {master!r} is not of the form {_FORMS}")
    if not any(_answers(one) for one in addresses):
        raise ConnectionError(f"no Spark master answers at {', '.join(addresses)}: is it running?")
    return 0


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _MASTER_TIMEOUT_S).close()
    except (OSError, OverflowError):
        return False
    return True


def _check_memory(memory_mb: int, cores: int) -> None:
    if memory_mb < MIN_MEMORY_MB:
        raise ValueError(
            f"--memory-mb {memory_mb}: Spark needs {MIN_MEMORY_MB} MB of heap at least"
        )
    needed, free = memory_mb + _JVM_MB + cores * _WORKER_MB, available_mb()
    if needed > free:
        raise ValueError(
            f"the backfill needs {needed:,} MB ({memory_mb:,} for Spark's heap, {_JVM_MB} beside it"
            f", {_WORKER_MB} a core), and {free:,} MB are free: a smaller --memory-mb, fewer cores "
            "(--master 'local[1]'), or another master"
        )


def available_mb() -> int:
    """Memory that this process may still take: of the machine, and of its control group."""
    free = psutil.virtual_memory().available
    limit, used = (_group_bytes(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, limit - used)
    return int(free // 1_000_000)


def _group_bytes(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
