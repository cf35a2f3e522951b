"""What users and their stores send: keys in any language, damaged files, bad notices, versions."""

import asyncio
import base64
import contextlib
import re
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import orjson
import pytest

from services.cv_inspection.edge import device as edge
from services.cv_inspection.ingestion import reconciliation
from services.cv_inspection.ingestion.events import (
    DEAD_STREAM,
    IMAGE,
    LABEL,
    STREAM,
    ImageRef,
    InspectionEvent,
    publish_image,
    result_stem,
)
from services.cv_inspection.model import ImageModel, ModelFailed, read_model
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.serving import batch
from services.cv_inspection.serving import worker as inspection
from services.cv_inspection.serving.app import create_app
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.models.served_model import ServedModel
from services.platform.runtime.tasks import cancel_tasks
from services.platform.storage.lake import Lake
from services.platform.storage.signed import get_version, request
from services.platform.streaming.consumer import OrderedConsumer, consume
from tests.integration.conftest import until
from tests.integration.cv_inspection.inspections import stored_inspection
from tests.unit.cv_inspection.image_files import cut_and_closed, encoded, jpeg, part, zeroed
from tests.unit.cv_inspection.vision_fixtures import cv_card, quiet

WHOLE = jpeg(part())
FOLDER = "line-a/station-1/lot-1"
UNUSUAL = [f"{FOLDER}/UPPER_CASE.JPG", f"{FOLDER}/größe 图片 1.jpg", "Linie №2/s.1/l/frame+1.png"]
DAMAGED = {
    "cut.jpg": cut_and_closed(WHOLE, 0.5),
    "zeroed.jpg": zeroed(WHOLE, 0.5),
    "strip.png": encoded(np.tile(part(32), (1, 20))),
    "deep.png": encoded(part().astype(np.uint16) << 4),
}


@pytest.fixture
def model(config, nc, vision_file):
    """A champion in the store."""
    data = write_card(vision_file, cv_card())
    put_served(config, data, DESIGN, CHAMPION, 1)
    return data


@contextlib.asynccontextmanager
async def inspector(config):
    """The app, its connections open."""
    app = create_app(config)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        yield http


@contextlib.asynccontextmanager
async def running_worker(config, nc):
    """An inspection worker in this process."""
    champion = ServedModel(config, DESIGN, read_model)
    champion.load()
    lakes = Lake(config, config.inbox), Lake(config, config.results)
    worker = inspection.InspectionWorker(nc.jetstream(), *lakes, champion, audit_share=0.0)
    consumer = OrderedConsumer(nc, STREAM, inspection.NAME, f"{IMAGE}.>", inspection.BATCH)
    task = asyncio.create_task(consume(consumer, worker.handle))
    try:
        yield worker
    finally:
        await cancel_tasks(task)
        await worker.close()
        await consumer.stop()


def result(config, key):
    try:
        data = Lake(config, config.results).get(f"{result_stem(key)}.json")
    except FileNotFoundError:
        return None
    return orjson.loads(data)


async def subjects(nc, stream):
    info = await nc.jetstream().stream_info(stream, subjects_filter=">")
    return info.state.subjects or {}


async def publish(nc, keys):
    for key in keys:
        await publish_image(nc, key, ImageRef.from_key(key).line, key)


async def test_keys_in_any_language_are_inspected_and_damaged_files_named(config, nc, model):
    inbox = Lake(config, config.inbox)
    for key in UNUSUAL:
        inbox.put(key, encoded(part()) if key.endswith("png") else WHOLE)
    damaged = [f"{FOLDER}/{name}" for name in DAMAGED]
    for key, data in zip(damaged, DAMAGED.values(), strict=True):
        inbox.put(key, data)
    # Found in the store, so that its listing is tested too.
    assert await reconciliation.reconcile(config, min_age_s=-5) == len(UNUSUAL) + len(damaged)

    async def dead_letters():
        return sum((await subjects(nc, DEAD_STREAM)).values())

    # The result is written before the dead letter is published.
    async def all_published():
        return await dead_letters() >= len(damaged)

    async with running_worker(config, nc):
        await until(lambda: all(result(config, key) for key in [*UNUSUAL, *damaged]))
        await until(all_published)
    for key in UNUSUAL:
        event = InspectionEvent.model_validate(result(config, key))
        assert Lake(config, config.results).get(event.mask_key)
    words = ("can't be decoded", "not whole", "a side may be", "only the low 12")
    for key, word in zip(damaged, words, strict=True):
        assert word in result(config, key)["error"]

    assert await dead_letters() == len(damaged)
    assert reconciliation.without_result(config, min_age_s=-5) == []


async def test_a_posted_damaged_image_is_refused(config, nc, model):
    async with inspector(config) as http:
        for data in DAMAGED.values():
            answer = await http.post("/inspect", content=data)
            assert answer.status_code == 422
            assert answer.json()["error"].startswith("body: ")
        query = {"line": "Linie №2", "frame": "größe 图片 1"}
        assert (await http.post("/inspect", content=WHOLE, params=query)).status_code == 200


def test_a_bad_file_stops_neither_a_folder_nor_a_batch(config, nc, model, vision_model, tmp_path):
    folder, store = tmp_path / "images", Lake(config, config.inbox)
    good = [*UNUSUAL[:2], "größe.JPEG", "deeper/and deeper/图片.Jpg"]
    bad = [*DAMAGED, "folder/x.jpg"]
    for key in [*good, *bad]:
        data = DAMAGED.get(key, WHOLE)
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
        store.put(key, data)
    (folder / "folder/x.jpg").unlink()
    (folder / "folder/x.jpg").symlink_to(folder / "folder/x.jpg.elsewhere")
    (folder / "folder.jpg").mkdir()
    with contextlib.suppress(OSError):  # not every file system takes such names
        (folder / b"not utf-8 \xff.jpg".decode(errors="surrogateescape")).write_bytes(WHOLE)
        good.append("not utf-8")
    store.put("folder/x.jpg", b"<html>")
    done = edge.run(vision_model, folder, tmp_path / "store", quiet)
    assert (done.inspected, len(done.bad)) == (len(good), len(DAMAGED))
    keys = [batch.ManifestRow(config.inbox, key) for key in [*good[:4], *bad]]
    summary = batch.run(config, keys, tmp_path / "report.csv", 2, quiet)
    assert (summary.succeeded, summary.failed) == (4, len(bad))


class Failing(BaseHTTPRequestHandler):
    """Passes requests on to a store, and answers 500 to a GET of some keys."""

    protocol_version = "HTTP/1.1"
    port = 0
    broken: tuple[str, ...] = ()

    def handle_one(self):
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = self.read_chunks() if chunked else self.read_all()
        if any(key in self.path for key in self.broken) and self.command in ("GET", "HEAD"):
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = dict(self.headers)
        connection.request(self.command, self.path, body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    def read_all(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def read_chunks(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return iter(parts)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def failing_store(config, monkeypatch):
    """Settings of a store that can't read an object called broken."""
    monkeypatch.setattr(Failing, "port", config.s3_port)
    monkeypatch.setattr(Failing, "broken", ("broken",))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield config.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{server.server_port}"})
    server.shutdown()


@pytest.mark.slow
async def test_an_unreadable_object_does_not_stop_the_line(
    config, failing_store, nc, model, monkeypatch
):
    monkeypatch.setattr(inspection, "_BACKOFF_S", (600.0,))
    inbox = Lake(config, config.inbox)
    keys = [f"{FOLDER}/{name}.jpg" for name in ("1", "broken", "2", "3")]
    for key in keys:
        inbox.put(key, WHOLE)
    others = [keys[0], *keys[2:]]
    await publish(nc, keys[:3])
    async with running_worker(failing_store, nc):
        await until(lambda: all(result(config, key) for key in others[:2]))
        await publish(nc, keys[3:])
        await until(lambda: result(config, keys[3]))
    assert await subjects(nc, DEAD_STREAM) == {}
    # Stopped while it waited: the reconciliation finds the image again.
    assert reconciliation.without_result(config, min_age_s=-5) == [keys[1]]
    assert await reconciliation.reconcile(config, min_age_s=-5) == 1
    monkeypatch.setattr(inspection, "_BACKOFF_S", (0.1, 0.1))
    async with running_worker(failing_store, nc):
        await until(lambda: result(config, keys[1]))
    assert "HTTP status 500" in result(config, keys[1])["error"]
    assert list((await subjects(nc, DEAD_STREAM)).values()) == [1]


async def test_an_object_that_can_be_read_again_is_inspected(
    config, failing_store, nc, model, monkeypatch
):
    monkeypatch.setattr(inspection, "_BACKOFF_S", (0.2,) * 50)
    key = f"{FOLDER}/broken.jpg"
    Lake(config, config.inbox).put(key, WHOLE)
    await publish(nc, [key])
    async with running_worker(failing_store, nc) as worker:
        await until(lambda: worker._retries)
        monkeypatch.setattr(Failing, "broken", ())
        await until(lambda: result(config, key))
    assert InspectionEvent.model_validate(result(config, key)).key == key


@pytest.mark.slow
@pytest.mark.parametrize("error", [ModelFailed("failed: out of memory"), MemoryError()])
async def test_an_image_on_which_the_model_fails_does_not_stop_the_line(
    config, nc, model, monkeypatch, error
):
    def fail_once(model, image):
        if image.width == 100:
            raise error
        return real(model, image)

    real = ImageModel.inspect_image
    monkeypatch.setattr(ImageModel, "inspect_image", fail_once)
    monkeypatch.setattr(inspection, "_BACKOFF_S", (0.1, 0.1))
    keys = [f"{FOLDER}/{name}.jpg" for name in ("1", "2", "3")]
    inbox = Lake(config, config.inbox)
    for key in keys:
        inbox.put(key, WHOLE)
    inbox.put(keys[1], jpeg(part()[:, :100]))
    await publish(nc, keys)
    async with running_worker(config, nc):
        await until(lambda: all(result(config, key) for key in keys))
    assert "error" not in result(config, keys[2])
    assert (str(error) or "MemoryError") in result(config, keys[1])["error"]
    assert list((await subjects(nc, DEAD_STREAM)).values()) == [1]


@pytest.mark.slow
async def test_an_outage_of_the_store_makes_no_dead_letter(
    config, failing_store, nc, model, monkeypatch
):
    monkeypatch.setattr(inspection, "_BACKOFF_S", (0.1,))
    key = f"{FOLDER}/1.jpg"
    Lake(config, config.inbox).put(key, WHOLE)
    await publish(nc, [key])
    async with running_worker(failing_store, nc):
        monkeypatch.setattr(Failing, "broken", ("/inbox", "/results"))
        await asyncio.sleep(4)
        assert result(config, key) is None
        monkeypatch.setattr(Failing, "broken", ())
        await until(lambda: result(config, key))
    assert await subjects(nc, DEAD_STREAM) == {}


def record(key, **changes):
    s3 = {"bucket": {"name": "inbox"}, "object": {"key": key}}
    return {"eventName": "ObjectCreated:Put", "s3": s3, **changes}


async def test_a_bad_record_is_dead_lettered_and_the_good_one_published(config, nc):
    token = config.plain_webhook_token
    pair = base64.b64encode(f"store:{token}".encode()).decode()
    bad = [record("x", s3={}), record("y", s3={}), 1]  # two of them for one reason
    body = orjson.dumps({"Records": [record(f"{FOLDER}/frame%2B1.jpg"), *bad]})
    async with inspector(config) as http:
        # A topic has no bearer token, but user and password in its address.
        for authorization in (f"Bearer {token}", f"Basic {pair}"):
            headers = {"Authorization": authorization}
            answer = await http.post("/events/s3", content=body, headers=headers)
            assert answer.status_code == 202
            assert answer.json()["taken"] is True
            assert "no s3.bucket.name" in answer.json()["reason"]
        headers = {"Authorization": "Basic " + base64.b64encode(b"other:password").decode()}
        assert (await http.post("/events/s3", content=body, headers=headers)).status_code == 401
        counted = (await http.get("/metrics")).text
    assert 'events_total{consumer="notifications",outcome="dead"}' in counted
    message = await nc.jetstream().get_last_msg(STREAM, f"{IMAGE}.line-a")
    assert orjson.loads(message.data)["key"] == f"{FOLDER}/frame+1.jpg"
    assert await subjects(nc, STREAM) == {f"{IMAGE}.line-a": 1}
    assert await subjects(nc, DEAD_STREAM) == {"cv.dead.events": 3}


@pytest.mark.parametrize("has_model", [True, False])
async def test_labels_are_read_as_people_write_them(config, nc, vision_file, has_model):
    if has_model:
        classes = ("good", "deep scratch", *cv_card().classes[2:])
        file = write_card(vision_file, cv_card(classes=classes))
        put_served(config, file, DESIGN, CHAMPION, 1)
    known = "Deep-Scratch" if has_model else "Missing thread"
    async with inspector(config) as http:
        http.headers["Authorization"] = f"Bearer {config.plain_label_token}"
        inspected = await stored_inspection(nc)
        for label in ("OK", "Good", "PASS", known):
            body = {"inspection_id": inspected, "label": label}
            assert (await http.post("/verdict", json=body)).status_code == 202
        body = {"inspection_id": inspected, "label": "scrach"}
        answer = await http.post("/verdict", json=body)
    assert answer.status_code == 422
    assert "'scrach' is not one of good, " in answer.json()["error"]
    name = "deep%20scratch" if has_model else "missing_thread"
    assert await subjects(nc, STREAM) == {f"{LABEL}.good": 3, f"{LABEL}.{name}": 1}


ENABLED = (
    b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Status>Enabled</Status></VersioningConfiguration>"
)


@pytest.fixture
def versions(config, nc):
    """A bucket that keeps versions, and the two versions of its object, the older first."""
    assert request(config, "PUT", "/versions", {}, 1_000).status in (200, 409)
    answer = request(config, "PUT", "/versions", {"versioning": ""}, 1_000, ENABLED)
    assert answer.status == 200
    key = f"{FOLDER}/f 1.jpg"
    for data in (WHOLE, b"<html>"):
        Lake(config, "versions").put(key, data)
    listed = request(config, "GET", "/versions", {"versions": ""}, 100_000).body.decode()
    found = re.findall("<VersionId>(.*?)</VersionId>", listed)
    by_content = {get_version(config, "versions", key, v, 99_999): v for v in found}
    return by_content[WHOLE], by_content[b"<html>"]


def test_the_version_of_a_manifest_is_fetched(config, nc, model, versions, tmp_path):
    path, key = tmp_path / "manifest.csv", f"{FOLDER}/f%201.jpg"
    lines = [f'"versions","{key}","{version}"' for version in (*versions, "0" * 32)]
    Lake(config, config.inbox).put(f"{FOLDER}/f 2.jpg", WHOLE)
    text = "\r\n".join([*lines, f'"inbox","{FOLDER}/f%202.jpg",""', ""])
    path.write_bytes(text.encode())
    rows = batch.read_manifest(config, str(path))
    assert [row.version for row in rows] == [*versions, "0" * 32, ""]
    report = tmp_path / "report.csv"
    for _ in range(3):
        summary = batch.run(config, rows, report, 2, quiet)
        assert summary.succeeded + summary.resumed == 2
        assert summary.failed == 2
        # One row an object, however often it was tried.
        assert len(report.read_text().splitlines()) == 1 + len(rows)
    by_version = {line.split(",")[-1]: line for line in report.read_text().splitlines()}
    assert "succeeded" in by_version[versions[0]]
    assert "not a JPEG or PNG" in by_version[versions[1]]
    assert "not version" in by_version["0" * 32]


def test_a_report_of_an_earlier_version_is_resumed(config, nc, model, tmp_path):
    report = tmp_path / "report.csv"
    header = "bucket,key,status,decision,label,defect,model,error\r\n"
    rows = [batch.ManifestRow(config.inbox, f"{FOLDER}/{name}.jpg") for name in ("1", "2")]
    Lake(config, config.inbox).put(rows[1].key, WHOLE)
    report.write_text(
        f"{header}inbox,{rows[0].key},succeeded,pass,good,0.1,m:1,\r\n"
        f"inbox,{rows[1].key},failed,,,,,no such object\r\ninbox,cut o", newline=""
    )  # fmt: skip
    summary = batch.run(config, rows, report, 2, quiet)
    assert (summary.succeeded, summary.failed, summary.resumed) == (1, 0, 1)
    lines = report.read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(",error,version")
