"""Each engine, as `up` configures it, with passwords that mean something to its configuration."""

import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from features.redis_connection import RedisConnection
from infra.local.compose import HEALTH_PASSWORD, compose_secrets, password_name
from infra.local.engines import Program, binary, engines, environment, free_port
from services.designs import DESIGNS
from services.platform.access import OPERATOR
from services.platform.runtime.http import has_bearer_token
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from tests.conftest import make_settings, start_engine
from tests.unit.platform.test_settings import PASSWORDS

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# In the middle of a path, engines would split it or read it as quotes, comments or escapes.
ODD = "a b,c ;d #e 'q\" 50% größe 图片"

each_password = pytest.mark.parametrize("password", PASSWORDS)


@pytest.fixture
def start():
    """Starts a program and waits for its ports; ends all of them."""
    running = []

    def begin(program: Program, logs: Path) -> None:
        running.append(start_engine(program, logs))

    yield begin
    for process in running:
        process.kill()
        process.wait(20)


@pytest.fixture
def made(tmp_path, password):
    """Settings with the password, and a home whose path has odd characters."""
    home = tmp_path / ODD
    home.mkdir()
    return with_password(make_settings(home), password)


def with_password(config: Settings, password: str) -> Settings:
    return Settings(**{**dict(config), "password": password})


def engine(config: Settings, name: str, object_events: str = "") -> Program:
    return next(p for p in engines(config, object_events) if p.name == name)


def redis_answers(config: Settings) -> None:
    with Redis.from_url(config.redis) as redis:
        assert redis.ping()
    other = Redis.from_url(with_password(config, "another").redis)
    with other, pytest.raises(AuthenticationError):
        other.ping()


async def nats_answers(config: Settings) -> None:
    nc = await connect(config, "test")
    await nc.close()
    with pytest.raises(ConnectionError):
        await connect(with_password(config, "another"), "test", timeout_s=0.5)


def store_answers(config: Settings) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            Lake(config, config.inbox).put("a b/größe.jpg", b"x")
            break
        except OSError:
            assert time.monotonic() < end, "S3 takes no writes"
            time.sleep(0.1)
    with pytest.raises(OSError, match=r"ACCESS_DENIED|403|SIGNATURE"):
        Lake(with_password(config, "another")).put("ready", b"")


@each_password
async def test_nats_knows_the_password(made, start):
    start(engine(made, "nats"), made.home)
    await nats_answers(made)
    assert (made.home / "nats" / "jetstream").exists()


@each_password
async def test_redis_knows_the_password(made, start):
    start(engine(made, "redis"), made.home)
    redis_answers(made)
    connection = RedisConnection(made.redis)
    assert await connection.execute([("PING",)]) == [b"PONG"]
    connection.close()
    assert list((made.home / "redis").iterdir())


@each_password
def test_the_store_knows_the_password_and_tells_it(made, start, notified):
    url, seen = notified
    start(engine(made, "seaweedfs", f"{url}/events/s3"), made.home)
    store_answers(made)
    end = time.monotonic() + 20
    while not seen:
        assert time.monotonic() < end, "no notification"
        time.sleep(0.05)
    path, authorization = seen[0]
    assert path == "/events/s3"
    assert has_bearer_token(authorization, made.plain_webhook_token)
    assert list((made.home / "s3").iterdir())
    assert oct((made.home / "conf" / "notification.toml").stat().st_mode)[-3:] == "600"


@pytest.fixture
def notified():
    """A server's URL, and path and authorization of each request it gets."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


@each_password
def test_feast_reads_the_password_from_its_connection_string(password):
    from feast.infra.online_stores.redis import RedisOnlineStore

    from features.store import _option

    for text in (password, "a,b=c", "1e5", "true", "007"):
        _, options = RedisOnlineStore._parse_connection_string(f"h:1,password={_option(text)}")
        assert options == {"password": text}


def rendered(value: object, variables: dict[str, str]) -> object:
    """A part of the file as Compose renders it: ${NAME:-default}, and $$ for a dollar."""
    if isinstance(value, dict):
        return {key: rendered(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [rendered(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def filled(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1]) or found[2]

    return re.sub(r"\$\$|\$\{(\w+):?[-?]([^}]*)\}", filled, value)


def compose(service: str, password: str) -> dict:
    secrets = compose_secrets(DESIGNS, {password_name(OPERATOR): password, HEALTH_PASSWORD: "h"})
    return dict(rendered(COMPOSE[service], secrets))


def shell(service: dict, changes: dict[str, str]) -> tuple[str, ...]:
    """A service's command with other files and ports."""
    script = service["command"][-1]
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    return ("sh", "-c", script)


def as_compose(service: dict) -> dict[str, str]:
    path = f"{Path(binary('redis-server')).parent}:{os.environ['PATH']}"
    return {**service["environment"], "PATH": path}


def test_compose_puts_a_secret_into_no_other_text():
    plain = r"\$\{\w+:\?`whiteboard secrets` writes \.env\}"
    for name, service in COMPOSE.items():
        texts = [*service.get("environment", {}).values(), *service.get("command", [])]
        for text in texts:
            if ":?" in str(text):
                assert re.fullmatch(plain, text), name


@each_password
async def test_compose_starts_nats_with_the_password(password, tmp_path, start, monkeypatch):
    config = with_password(make_settings(tmp_path), password)
    own = Settings(**{**dict(config), "nats_host": "127.0.0.1"})
    for name, value in compose("scorer", password)["environment"].items():
        monkeypatch.setenv(name, value)
    inside = Settings(home=tmp_path)
    assert (inside.nats_host, inside.nats_port, inside.redis_host) == ("nats", 4222, "redis")
    assert inside.user == "scorer"
    conf = tmp_path / "nats.conf"
    text = (ROOT / "infra" / "nats" / "nats.conf").read_text()
    conf.write_text(
        text.replace("4222", str(own.nats_port))
        .replace("8222", str(own.nats_http_port))
        .replace("/data", str(tmp_path / "nats"))
    )
    service = compose("nats", password)
    made = str(tmp_path / "made.conf")
    command = shell(service, {"/etc/nats/whiteboard.conf": str(conf), "/tmp/nats.conf": made})
    ports = {"nats_port": own.nats_port}
    start(Program("nats", command, ports, as_compose(service)), tmp_path)
    await nats_answers(own)
    assert oct((tmp_path / "made.conf").stat().st_mode)[-3:] == "600"


@each_password
def test_compose_starts_redis_with_the_password(password, tmp_path, start):
    config = with_password(make_settings(tmp_path), password)
    service = compose("redis", password)
    changes = {
        "exec redis-server": f"exec redis-server --port {config.redis_port}",
        "/tmp/users.acl": str(tmp_path / "users.acl"),
    }
    command = shell(service, changes)
    ports = {"redis_port": config.redis_port}
    start(Program("redis", command, ports, as_compose(service), directory=tmp_path), tmp_path)
    redis_answers(config)
    with Redis.from_url(config.redis) as redis:
        for attack in (("CONFIG", "SET", "dir", "/tmp"), ("EVAL", "return 1", "0")):
            with pytest.raises(NoPermissionError):
                redis.execute_command(*attack)
    ping = [binary("redis-cli"), "-p", str(config.redis_port), *service["healthcheck"]["test"][2:]]
    done = subprocess.run(ping, env=as_compose(service), capture_output=True, text=True)
    assert done.stdout == "PONG\n"
    get = [binary("redis-cli"), "-p", str(config.redis_port), "--user", "health", "get", "x"]
    done = subprocess.run(get, env=as_compose(service), capture_output=True, text=True)
    assert "NOPERM" in done.stdout


@each_password
def test_compose_starts_the_store_with_the_password(password, tmp_path, start):
    config = with_password(make_settings(tmp_path), password)
    local = engine(config, "seaweedfs")
    ports = [
        option
        for option in local.command
        if re.match(r"-(s3|master|filer|volume|admin)\.port=", option)
    ]
    service = compose("seaweedfs", password)
    changes = {
        "/data": f"{tmp_path / 's3'} {' '.join(ports)}",
        "-ip=seaweedfs -ip.bind=0.0.0.0": "-ip=127.0.0.1 -ip.bind=127.0.0.1",
        "/tmp/s3.json": str(tmp_path / "s3.json"),
    }
    (tmp_path / "apart").mkdir()
    variables = as_compose(service) | {"WEED_NOTIFICATION_WEBHOOK_ENABLED": "false"}
    program = Program(
        "seaweedfs", shell(service, changes), local.ports, variables, 0, tmp_path / "apart"
    )
    start(program, tmp_path)
    store_answers(config)
    # All that it keeps is in its folder: the rest of its container cannot be written to.
    assert not list((tmp_path / "apart").iterdir())


PROXIED = """
import asyncio, sys, urllib.request
from services.platform.settings import settings
import aiohttp, requests
from services.platform.storage.lake import Lake
config = settings()
url = f"http://127.0.0.1:{config.nats_http_port}/healthz"
assert urllib.request.urlopen(url, timeout=5).status == 200
assert requests.get(url, timeout=5).status_code == 200
async def get():
    async with aiohttp.ClientSession(trust_env=True) as http, http.get(url) as answer:
        assert answer.status == 200
asyncio.run(get())
Lake(config).put("proxied", b"x")
"""


def test_no_client_of_this_machine_takes_a_proxy(config):
    nowhere = f"http://127.0.0.1:{free_port()}"
    proxies = {n: nowhere for name in ("http_proxy", "https_proxy", "all_proxy")
               for n in (name, name.upper())}  # fmt: skip
    plain = {k: v for k, v in environment().items() if k.lower() != "no_proxy"}
    command = [sys.executable, "-c", PROXIED]
    done = subprocess.run(command, env={**plain, **proxies}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
