"""Attacks on secrets and on Redis; each must fail."""

import json
import socket
import stat
from pathlib import Path

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from typer.testing import CliRunner

from infra.local.compose import compose_secrets
from services.cli.main import app
from services.designs import DESIGNS
from services.platform.secret_files import make_secret, read_secret, secrets_folder
from services.platform.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def answer(host: str, port: int, sent: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(sent)
        connection.settimeout(0.5)
        received = b""
        try:
            while part := connection.recv(4096):
                received += part
        except TimeoutError:
            pass
    return received


def test_secrets_are_random_one_an_account_and_nobody_elses(config, tmp_path):
    folder = secrets_folder(config.home)
    found = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert {"scorer", "feature-worker", "webhook-token"} <= set(found)
    assert len(set(found.values())) == len(found)
    assert "whiteboard-local" not in found.values()
    for path in (config.home, folder, config.home / "conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in (p for p in folder.iterdir() if p.is_file()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert make_secret(tmp_path, "scorer") != found["scorer"]
    assert make_secret(tmp_path, "scorer") == read_secret(tmp_path, "scorer")


def test_a_home_without_secrets_opens_no_engine(config, tmp_path):
    stranger = Settings(home=tmp_path, redis_port=config.redis_port, password="")
    with Redis.from_url(stranger.redis) as redis, pytest.raises(AuthenticationError):
        redis.ping()


@pytest.mark.parametrize("password", ["whiteboard-local", "", "operator"])
def test_redis_does_not_take_the_default_password(config, password):
    commands = f"AUTH {password}\r\n" if password else ""
    said = answer(config.host, config.redis_port, f"{commands}GET x\r\nQUIT\r\n".encode())
    assert b"NOAUTH" in said


def test_redis_takes_nothing_out_of_an_http_post(config, tmp_path):
    secret = config.plain_password
    body = f"AUTH operator {secret}\r\nCONFIG SET dir {tmp_path}\r\nSAVE\r\n"
    post = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert answer(config.host, config.redis_port, post.encode()).count(b"-NOPERM") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("account", ["operator", "scorer", "feature-worker", "shadow"])
def test_no_redis_account_administrates_or_runs_scripts(config, account):
    with Redis.from_url(config.with_account(account).redis) as redis:
        for command in (
            ("CONFIG", "SET", "dir", "/tmp"), ("CONFIG", "GET", "*"), ("SAVE",), ("BGREWRITEAOF",),
            ("SLAVEOF", "127.0.0.1", "1"), ("DEBUG", "SLEEP", "0"), ("FLUSHALL",), ("FLUSHDB",),
            ("ACL", "LIST"), ("EVAL", "return 1", "0"), ("MODULE", "LIST"), ("KEYS", "*"),
            ("SHUTDOWN", "NOSAVE"), ("MONITOR",), ("CLIENT", "KILL", "TYPE", "normal"),
        ):  # fmt: skip
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command)


def test_the_scorer_reads_redis_and_writes_nothing(config):
    with Redis.from_url(config.with_account("scorer").redis) as redis:
        redis.hmget("x", ["a"])
        with pytest.raises(NoPermissionError):
            redis.hset("x", "a", "b")
    with (
        Redis.from_url(config.with_account("lake-writer").redis) as redis,
        pytest.raises((AuthenticationError, ResponseError)),
    ):
        redis.get("x")


def test_compose_starts_with_no_default_secret_and_the_command_writes_them(tmp_path):
    text = (ROOT / "docker-compose.yml").read_text()
    assert "whiteboard-local" not in text
    asked = {word.partition(":")[0] for word in text.split("${")[1:] if ":?" in word[:60]}
    assert asked == set(compose_secrets(DESIGNS))
    file = tmp_path / ".env"
    file.write_text("WHITEBOARD_NIGHT_UTC=04:00\n")
    texts = []
    for _ in range(2):
        assert CliRunner().invoke(app, ["secrets", "--file", str(file)]).exit_code == 0
        texts.append(sorted(file.read_text().splitlines()))
    assert texts[0] == texts[1]
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert lines.pop("WHITEBOARD_NIGHT_UTC") == "04:00"
    assert set(lines) == asked
    assert len(set(lines.values())) == len(lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.dumps(yaml.safe_load(text))
