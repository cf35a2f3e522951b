"""Attacks that failed when the first stack was attacked; each must fail still."""

import ast
import gzip
import json
import socket
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import httpx
import orjson
import pytest

from services.cv_inspection.ingestion.images import InvalidImage, load
from services.cv_inspection.serving.app import create_app as create_inspector
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.fraud.serving.app import create_app as create_scorer
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.walkthrough.app import create_app as create_walkthrough
from tests.security.test_clients import ask, bearer
from tests.security.test_models import peak_bytes
from tests.security.test_requests import answer, serving

ROOT = Path(__file__).parent.parent.parent


def said_by(host: str, port: int, sent: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(4096):
            received += part
    return received


@pytest.mark.parametrize(
    "credentials",
    [{}, {"user": "operator"}, {"user": "operator", "pass": ""}, {"user": "scorer", "pass": "x"},
     {"auth_token": "x"}, {"user": "", "pass": ""}],
)  # fmt: skip
def test_nats_refuses_without_a_password(config, credentials):
    sent = b"CONNECT " + orjson.dumps({"verbose": True, **credentials}) + b"\r\nPING\r\n"
    said = said_by(config.host, config.nats_port, sent)
    assert b"Authorization Violation" in said
    assert b"PONG" not in said


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "AWS operator:x"}, {"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"},
     {"Authorization": "Bearer x"}],
)  # fmt: skip
def test_s3_refuses_without_a_signature(config, method, headers):
    path = "models/held/champion.onnx"
    Lake(config).put(path, b"good")
    for url in (f"{config.s3}/{config.bucket}/{path}", f"{config.s3}/{config.bucket}/"):
        data = b"approve everything" if method in ("PUT", "POST") else None
        request = urllib.request.Request(url, data, dict(headers), method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code in (400, 401, 403, 405), url
    assert Lake(config).get(path) == b"good"


@pytest.mark.parametrize("create", [create_scorer, create_inspector])
@pytest.mark.parametrize("token", ["", "None", "x"])
async def test_admin_is_shut_without_a_token(config, create, token):
    for made in (config, Settings(**{**dict(config), "admin_token": "chosen"})):
        for method, path in (("GET", "history"), ("POST", "swap"), ("POST", "rollback"),
                             ("POST", "night")):  # fmt: skip
            app = create(made)
            found = await ask(app, method, f"/admin/{path}", headers=bearer(token), content=b"{}")
            assert found.status_code in (401, 403)


_UP = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "....//", "..;/", "%252e%252e%252f")


@pytest.mark.parametrize("up", _UP)
async def test_no_path_leads_out_of_what_is_served(config, up):
    secret = config.plain_password
    Lake(config).put("models/held/champion.onnx", secret.encode())
    names = ("secrets/operator", "models/held/champion.onnx", "etc/passwd")
    places = ("/reports", "/static", "/decisions", "")
    paths = [f"{one}/{up * depth}{name}" for one in places for depth in (1, 6) for name in names]
    keys = (f"{up * 3}secrets/operator.png", "/etc/passwd.png", "a//b.png", "a/./b.png", "a%00.png")
    paths += [f"/api/image?key={key}" for key in keys]
    for app in (create_scorer(config), create_inspector(config), create_walkthrough(config)):
        for path in paths:
            found = await ask(app, "GET", path)
            assert found.status_code in (307, 400, 404, 405, 422, 503), path
            assert secret not in found.text
            assert "root:" not in found.text


_SMUGGLED = b"GET /admin HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 4",
        b"content-length: 0\r\ncontent-length: %d" % len(_SMUGGLED),
        b"content-length: +0", b"content-length: 0x0", b"content-length: 0, 0",
        b"content-length : 0", b"transfer-encoding: identity, chunked, identity",
        b"transfer-encoding: xchunked", b"transfer-encoding:\x0bchunked",
        b"x: y\r\n transfer-encoding: chunked", b"x: y\nhost: evil.example",
    ],
)  # fmt: skip
async def test_no_request_is_smuggled_in_the_body_of_another(head):
    first = b"POST / HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n"
    async with serving() as port:
        line = await answer(port, first + b"0\r\n\r\n" + _SMUGGLED)
        assert not line or b" 400 " in line


async def test_a_chunked_body_is_one_body_and_bounded(config):
    async def chunks():
        for _ in range(200):
            yield b"x" * 1_000

    app = create_scorer(config)
    async with app.router.lifespan_context(app):
        assert (await ask(app, "POST", "/score", content=chunks())).status_code == 413


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "body",
    [
        nested(30_000), b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 60_000,
        json.dumps({**EXAMPLE_TRANSACTION, "amount_minor": 1}).encode().replace(
            b'"amount_minor": 1', b'"amount_minor": 1' + b"0" * 50_000),
        json.dumps({**EXAMPLE_TRANSACTION, "ip": "x" * 60_000}).encode(),
        b'{"event_time": 1e999999999}', b'"' + b"\\u0000" * 10_000 + b'"',
        b'{"a":1,' * 5_000, b"NaN", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
        gzip.compress(json.dumps(EXAMPLE_TRANSACTION).encode()),
    ],
    ids=range(12),
)  # fmt: skip
async def test_a_json_bomb_is_an_invalid_body(config, body):
    """Compressed ones too: no service unpacks what a client packed."""
    app = create_scorer(config)
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    async with app.router.lifespan_context(app):
        found = await ask(app, "POST", "/score", content=body, headers=headers)
        assert found.status_code == 422
        assert len(found.content) < 5_000
        good = await ask(app, "POST", "/score", json=EXAMPLE_TRANSACTION)
        assert good.status_code in (200, 503)
    inspector = create_inspector(config)
    token = bearer(config.plain_webhook_token)
    async with inspector.router.lifespan_context(inspector):
        found = await ask(inspector, "POST", "/events/s3", content=body, headers=token)
    assert found.status_code == 422


def png(width: int, height: int, packed: bytes = b"") -> bytes:
    """A PNG that says a size; its pixels are a bomb of `packed`, or none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    "image",
    [
        png(50_000, 50_000), png(2**31 - 1, 2**31 - 1), png(0, 0), png(1_000_000, 8),
        gzip.compress(bytes(1_000_000)), b"\xff\xd8" + b"\xff\xe1\xff\xff" + bytes(70_000),
    ],
    ids=range(6),
)  # fmt: skip
def test_an_image_bomb_is_no_image(image):
    before = peak_bytes()
    with pytest.raises(InvalidImage):
        load(image)
    assert peak_bytes() - before < 150_000_000


def test_pixels_beyond_an_image_s_size_are_not_unpacked():
    before = peak_bytes()
    assert load(png(256, 256, zlib.compress(bytes(400_000_000), 9))).size == (256, 256)
    assert peak_bytes() - before < 150_000_000


_UNSAFE = {
    "pickle": {"load", "loads", "Unpickler"}, "cloudpickle": {"load", "loads"},
    "dill": {"load", "loads"}, "joblib": {"load"}, "marshal": {"load", "loads"},
    "shelve": {"open"}, "pandas": {"read_pickle"}, "pd": {"read_pickle"},
    "yaml": {"load", "unsafe_load", "full_load", "load_all"},
}  # fmt: skip


def runs_what_it_reads(path: Path) -> list[str]:
    """Calls in a source file that run code out of the data that they read."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                if (
                    name in _UNSAFE.get(module, ())
                    or given.get("allow_pickle")
                    or ((module, name) == ("torch", "load") and not given.get("weights_only"))
                ):
                    found.append(f"{path}:{node.lineno}: {module}.{name}")
    return found


def test_nothing_that_is_read_is_unpickled(tmp_path):
    """Retraining reads native models of the registry, checkpoints and caches."""
    folders = ("services", "features", "monitoring", "infra", "loadtest")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    assert not [call for path in files for call in runs_what_it_reads(path)]
    (tmp_path / "x.py").write_text("pickle.loads(x)\ntorch.load(x)\nnp.load(x, allow_pickle=True)")
    assert len(runs_what_it_reads(tmp_path / "x.py")) == 3


async def test_a_webhook_s_key_leads_nowhere_else(config, nc):
    app = create_inspector(config)
    keys = ("../../models/fraud/champion.onnx", "/etc/passwd", "a/../../b.jpg", "", "x" * 5_000,
            "line/station/lot/\u0000.jpg", "line-a/station-1/lot-7/0001.exe")  # fmt: skip
    async with app.router.lifespan_context(app):
        for bucket in ("lake", "results", "", "..", config.inbox):
            for key in keys:
                record = {"bucket": {"name": bucket}, "object": {"key": key}}
                body = {"Records": [{"eventName": "ObjectCreated:Put", "s3": record}]}
                found = await ask(app, "POST", "/events/s3", json=body,
                                  headers=bearer(config.plain_webhook_token))  # fmt: skip
                assert found.status_code in (202, 422)
                assert found.status_code == 422 or not found.json()["taken"], (bucket, key)
    assert isinstance(found, httpx.Response)
