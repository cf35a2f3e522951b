"""Attacks on the object store past its S3 API; each must fail."""

import subprocess
import urllib.error
import urllib.request

import pytest

from infra.local.certificates import CERTIFICATE, KEY, ensure_certificates
from infra.local.engines import binary
from services.platform.models.names import served_path
from services.platform.storage.lake import Lake


@pytest.fixture
def model(config):
    """A model in the store."""
    lake, path = Lake(config), served_path("attacked")
    lake.put(path, b"the model that passed the gate")
    return lake, path


def status(url: str, method: str = "GET", data: bytes | None = None) -> int:
    request = urllib.request.Request(url, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "GET"])
def test_the_filer_neither_replaces_nor_reads_a_model(config, model, method):
    lake, path = model
    filer = f"http://{config.host}:{config.s3_internal_port + 1}"
    data = b"approve everything" if method in ("PUT", "POST") else None
    assert status(f"{filer}/buckets/{config.bucket}/{path}", method, data) in (401, 403, 404, 405)
    assert lake.get(path) == b"the model that passed the gate"


def test_a_get_deletes_no_collection(config, model):
    lake, path = model
    master = f"http://{config.host}:{config.s3_internal_port}"
    for method in ("GET", "POST"):
        url = f"{master}/col/delete?collection={config.bucket}"
        assert status(url, method) in (401, 403, 404, 405)
    assert lake.get(path) == b"the model that passed the gate"


def test_the_master_assigns_no_file_and_the_volume_server_gives_none(config):
    first = config.s3_internal_port
    assert status(f"http://{config.host}:{first}/dir/assign") in (401, 403, 404, 405)
    assert status(f"http://{config.host}:{first + 2}/1,01637037d6") in (401, 403, 404, 405)


@pytest.mark.e2e
@pytest.mark.parametrize("forged", [False, True])
def test_the_shell_gets_no_secret_without_the_certificate(config, tmp_path, forged):
    if forged:
        ensure_certificates(tmp_path / "tls", "seaweedfs")
        pair = f'cert = "tls/{CERTIFICATE}"\nkey = "tls/{KEY}"\n'
        (tmp_path / "security.toml").write_text(
            f'[grpc]\nca = "{config.home}/conf/tls/ca.pem"\n[grpc.client]\n{pair}'
        )
    first = config.s3_internal_port
    command = [
        binary("weed"),
        "shell",
        f"-master={config.host}:{first}",
        f"-filer={config.host}:{first + 1}",
    ]
    try:
        done = subprocess.run(
            command, input=b"s3.configure\nexit\n", cwd=tmp_path, capture_output=True, timeout=8
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"") + (error.stderr or b"")
    assert config.plain_password.encode() not in said
    assert b"secretKey" not in said
