"""Secrets: each pod's own password alone, and engine configurations that the engines take."""

import json
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from infra.kubernetes.generate import FOLDER, processes
from infra.kubernetes.names import ENGINES_NAMESPACE, NAMESPACE
from infra.kubernetes.secrets import main, secret_objects
from infra.local.engines import binary, redis_server
from services.designs import DESIGNS
from services.platform.access import OPERATOR
from services.platform.design import WALKTHROUGH, accounts
from services.platform.secret_files import read_secret
from services.platform.settings import PROMOTION, Settings
from tests.unit.kubernetes import checks

pytestmark = pytest.mark.usefixtures("default_environment")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def secrets(home):
    """By (namespace, name), the values."""
    made = secret_objects(Settings(home=home), DESIGNS)
    assert checks.schema_errors(made, "1.37") == []
    return {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["stringData"] for one in made
    }


def password(secrets, account):
    return secrets[NAMESPACE, f"account-{account}"][account]


def test_every_account_has_a_secret_of_its_own(secrets):
    names = {process.name for _, process in processes(DESIGNS)}
    assert names == set(accounts(DESIGNS)) - {WALKTHROUGH.name}
    passwords = [password(secrets, name) for name in (*names, OPERATOR)]
    assert len(set(passwords)) == len(passwords)
    assert all(len(values) == 1 for (space, _), values in secrets.items() if space == NAMESPACE)


def test_a_second_run_prints_the_same(secrets, home):
    again = secret_objects(Settings(home=home), DESIGNS)
    assert [one["stringData"] for one in again] == list(secrets.values())


def test_pods_mount_secrets_that_there_are(secrets, objects):
    for title, template in checks.pods(objects):
        for volume in template["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                assert (NAMESPACE, source["secret"]["name"]) in secrets, title


def test_the_charts_values_name_secrets_that_there_are(secrets):
    nats, redis, store = (
        yaml.safe_load((FOLDER / "engines" / f"{name}.values.yaml").read_text())
        for name in ("nats", "redis", "seaweedfs")
    )
    [volume] = nats["podTemplate"]["patch"]
    wanted = {
        volume["value"]["secret"]["secretName"]: "accounts.conf",
        redis["acl"]["secret"]["secretName"]: "user.acl",
        redis["redisReplication"]["redisSecret"]["secretName"]: "password",
        store["s3"]["existingConfigSecret"]: "seaweedfs_s3_config",
    }
    [token] = store["filer"]["secretExtraEnvironmentVars"].values()
    wanted[token["secretKeyRef"]["name"]] = token["secretKeyRef"]["key"]
    for name, key in wanted.items():
        assert list(secrets[ENGINES_NAMESPACE, name]) == [key]
    assert nats["config"]["merge"]["00$include"] == "../nats-accounts/accounts.conf"


def test_a_process_finds_its_password_where_the_pod_mounts_it(secrets, tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, value in secrets[NAMESPACE, "account-scorer"].items():
        (folder / name).write_text(value)
    config = Settings(home=tmp_path).with_account("scorer")
    assert config.plain_password == password(secrets, "scorer")
    assert config.with_account("monitor").plain_password != password(secrets, "monitor")
    [(name, key)] = secrets[NAMESPACE, "account-promotion-key.public"].items()
    (folder / name).write_text(key)
    assert config.plain_verify_key == key != ""
    assert read_secret(tmp_path, PROMOTION) == ""


def test_nats_takes_its_configuration(secrets, tmp_path):
    for folder in ("nats-config", "nats-accounts"):
        (tmp_path / folder).mkdir()
    accounts_file = tmp_path / "nats-accounts" / "accounts.conf"
    accounts_file.write_text(secrets[ENGINES_NAMESPACE, "nats-accounts"]["accounts.conf"])
    config = tmp_path / "nats-config" / "nats.conf"
    config.write_text("include ../nats-accounts/accounts.conf;\nport: 4222\n")
    command = (binary("nats-server"), "-t", "-c", str(config))
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    accounts_file.write_text("authorization {users: [{user: a, user: b}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@contextmanager
def redis_with(users):
    """A Redis with an access control list, on a socket; yields how to connect as an account."""
    with tempfile.TemporaryDirectory() as folder:
        path, socket = Path(folder) / "user.acl", f"{folder}/s"
        path.write_text(users)
        options = ("--port", "0", "--unixsocket", socket, "--aclfile", str(path), "--save", "")
        process = subprocess.Popen(
            (redis_server()[0], *options), cwd=folder, stdout=subprocess.DEVNULL
        )

        def connect(name, secret):
            once = Retry(NoBackoff(), 0)
            return Redis(unix_socket_path=socket, username=name, password=secret, retry=once)

        _until_there(Path(socket))
        try:
            yield connect
        finally:
            process.terminate()
            process.wait(20)


def _until_there(socket):
    end = time.monotonic() + 60
    while not socket.exists():
        assert time.monotonic() < end, "Redis does not listen"
        time.sleep(0.02)


def test_redis_takes_its_accounts(secrets):
    users = secrets[ENGINES_NAMESPACE, "redis-accounts"]["user.acl"]
    with redis_with(users) as connect:
        operator = connect("default", secrets[ENGINES_NAMESPACE, "redis-operator"]["password"])
        assert operator.info()["role"] == "master"
        connect("feature-worker", password(secrets, "feature-worker")).set("a", 1)
        scorer = connect("scorer", password(secrets, "scorer"))
        assert scorer.get("a") == b"1"
        with pytest.raises(NoPermissionError):
            scorer.set("a", 2)
        with pytest.raises(AuthenticationError):
            connect("default", "wrong").ping()
        with pytest.raises(AuthenticationError):
            connect("lake-writer", password(secrets, "lake-writer")).ping()


def test_the_store_s_accounts_are_json(secrets):
    made = json.loads(secrets[ENGINES_NAMESPACE, "seaweedfs-accounts"]["seaweedfs_s3_config"])
    actions = {one["name"]: one["actions"] for one in made["identities"]}
    assert actions["lake-writer"] == ["Write:lake/fraud/*"]
    assert actions["scorer"] == ["Read:lake", "List:lake"]


def test_passwords_are_not_printed_to_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(SystemExit, match="kubectl apply"):
        main()
