"""From an image in the store to its result; with kills, duplicate and missing events."""

import asyncio
import contextlib
import math
import sqlite3
import threading
from contextlib import closing, nullcontext
from functools import partial

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
from nats.js.errors import NotFoundError

from infra.local.engines import free_port
from services.cv_inspection.edge import device as edge
from services.cv_inspection.ingestion import reconciliation
from services.cv_inspection.ingestion.events import (
    DEAD_STREAM,
    DECISIONS_STREAM,
    IMAGE,
    INSPECTION,
    LABEL,
    STREAM,
    ImageRef,
    InspectionEvent,
    inspection_id,
    inspection_subject,
    publish_image,
    result_stem,
)
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE
from services.cv_inspection.model import read_model
from services.cv_inspection.problem import CLASSES, DESIGN
from services.cv_inspection.retraining import plan
from services.cv_inspection.retraining.outcomes import fetch_images, labelled_inspections
from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.serving import app as app_module
from services.cv_inspection.serving import batch, known
from services.cv_inspection.serving import worker as serving
from services.cv_inspection.serving.app import create_app
from services.cv_inspection.serving.worker import DURABLE
from services.cv_inspection.simulator.camera import Camera
from services.platform.models.names import CHALLENGER, CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.promotion import announce
from services.platform.models.served_file import put_served
from services.platform.retraining.shadow import shadow_table
from services.platform.retraining.spec import RequiredLabels
from services.platform.runtime.tasks import cancel_tasks
from services.platform.storage.lake import Lake
from services.platform.streaming.outbox import Outbox
from services.platform.streaming.shared_consumer import SharedConsumer
from services.platform.streaming.spill_file import OutboxEvent, SpillFile
from tests.integration.conftest import lag, until
from tests.integration.cv_inspection.inspections import made_inspection, stored_inspection
from tests.unit.cv_inspection.vision_fixtures import cv_card, quiet

pytestmark = pytest.mark.slow

CAMERA = Camera(5, defect_share=0.5)


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


@pytest.fixture
def line(config, model, worker):
    """Inspector and worker as processes, where the store's webhook finds them."""
    worker("cv", "inspector")
    return worker("cv", "inspection-worker")


async def is_up(config):
    async with httpx.AsyncClient() as http:
        with contextlib.suppress(httpx.HTTPError):
            return (await http.get(f"{INSPECTOR.url(config)}/readyz")).status_code == 200


def put(config, shot):
    Lake(config, config.inbox).put(shot.key, shot.jpeg())


def result(config, shot):
    stem = ImageRef.from_key(shot.key).stem
    try:
        return InspectionEvent.model_validate_json(Lake(config, config.results).get(f"{stem}.json"))
    except FileNotFoundError:
        return None


async def count(nc, stream, subject=">"):
    info = await nc.jetstream().stream_info(stream, subjects_filter=subject)
    return sum((info.state.subjects or {}).values())


async def test_a_posted_image_is_inspected(config, nc, model, monkeypatch):
    threads, respond = [], app_module._response_body

    def recorded(*arguments, **named):
        threads.append(threading.current_thread().name)
        return respond(*arguments, **named)

    monkeypatch.setattr(app_module, "_response_body", recorded)
    shot = CAMERA.shot(0)
    async with inspector(config) as http:
        answer = await http.post("/inspect?line=a&mask=png", content=shot.jpeg())
        assert answer.status_code == 200
        body = answer.json()
        assert body["decision"] in ("pass", "reject", "review")
        assert body["model"] == "efficientnet:1"
        assert body["mask_png"]
        for stage in ("wait", "decode", "measure", "infer", "decide", "encode"):
            assert f"{stage};dur=" in answer.headers["Server-Timing"]
        rle = (await http.post("/invocations", content=shot.jpeg())).json()
        assert sum(rle["mask_rle"]) == math.prod(rle["mask_size"])
        assert (await http.get("/ping")).status_code == 200
        await until(lambda: published(nc, 2))
    # Not on the event loop: boxes and masks take a while.
    assert [name.partition("_")[0] for name in threads] == ["inspect", "inspect"]


async def published(nc, number):
    return await count(nc, DECISIONS_STREAM, f"{INSPECTION}.>") >= number


async def test_an_invalid_image_is_refused_and_the_inspector_survives(config, nc, model):
    async with inspector(config) as http:
        for data, word in ((b"<html>", "not a JPEG"), (CAMERA.shot(1).jpeg()[:900], "decoded")):
            answer = await http.post("/inspect", content=data)
            assert answer.status_code == 422
            assert word in answer.json()["error"]
        assert (await http.post("/inspect", content=b"x" * (17 << 20))).status_code == 413
        assert (await http.post("/inspect?line=a%20b", content=b"")).status_code == 422
        assert (await http.post("/inspect", content=CAMERA.shot(1).jpeg())).status_code == 200


async def test_without_a_model_requests_are_refused(config, nc):
    async with inspector(config) as http:
        answer = await http.post("/inspect", content=CAMERA.shot(1).jpeg())
        assert answer.status_code == 503
        assert "whiteboard train cv" in answer.json()["error"]
        assert (await http.get("/readyz")).status_code == 503


async def test_images_beyond_the_queue_are_refused_at_once(config, nc, model):
    async with inspector(config) as http:
        posts = [http.post("/inspect", content=CAMERA.shot(2).jpeg()) for _ in range(60)]
        codes = [a.status_code for a in await asyncio.gather(*posts)]
    assert set(codes) == {200, 503}


async def test_a_notification_needs_the_token_and_repeats_are_one_event(config, nc):
    token = {"Authorization": f"Bearer {config.plain_webhook_token}"}
    data = orjson.dumps({"event_type": "create", "key": f"/buckets/{config.inbox}/a/b/c/1.jpg"})
    async with inspector(config) as http:
        for headers in ({}, {"Authorization": b"Bearer \xe9"}):
            answer = await http.post("/events/s3", content=data, headers=headers)
            assert answer.status_code == 401
        for _ in range(3):
            answer = await http.post("/events/s3", content=data, headers=token)
            assert answer.json() == {"taken": True}
        invalid = data.replace(b"a/b/c/1.jpg", b"somewhere.jpg")
        answer = await http.post("/events/s3", content=invalid, headers=token)
        assert answer.json()["taken"] is False
        assert (await http.post("/events/s3", content=b"x", headers=token)).status_code == 422
    assert await count(nc, STREAM) == 1
    assert await count(nc, DEAD_STREAM) == 1


async def test_a_label_is_published_and_an_invalid_one_is_named(config, nc):
    async with inspector(config) as http:
        good = orjson.dumps({"inspection_id": await stored_inspection(nc), "label": "scratch"})
        token = {"Authorization": f"Bearer {config.plain_label_token}"}
        for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}):
            answer = await http.post("/verdict", content=good, headers=wrong)
            assert answer.status_code == 401
        assert (await http.post("/verdict", content=good, headers=token)).status_code == 202
        bad = await http.post("/verdict", content=b'{"label": "scratch"}', headers=token)
        assert bad.status_code == 422
        assert "inspection_id" in bad.json()["error"]
    assert await count(nc, STREAM, f"{LABEL}.>") == 1


async def label(config, http, identity):
    """The answer to a label of an inspection."""
    token = {"Authorization": f"Bearer {config.plain_label_token}"}
    body = {"inspection_id": identity, "label": "good"}
    return await http.post("/verdict", json=body, headers=token)


async def test_a_label_of_no_inspection_is_refused_by_its_id(config, nc, model):
    async with inspector(config) as http:
        answer = await label(config, http, "a" * 32)
        assert (answer.status_code, answer.json()["error"]) == (
            404, f"inspection_id: no inspection {'a' * 32}"
        )  # fmt: skip
        # As after a post, whose inspection the stream may not have yet.
        posted = (await http.post("/inspect", content=CAMERA.shot(1).jpeg())).json()
        assert (await label(config, http, posted["inspection_id"])).status_code == 202
        for number in range(3):
            identity = await stored_inspection(nc, number)
            assert (await label(config, http, identity)).status_code == 202
        assert (await label(config, http, "f" * 32)).status_code == 404
    assert await count(nc, STREAM, f"{LABEL}.>") == 4


async def test_labels_of_inspections_of_before_a_restart_are_taken(config, nc, worker):
    """From the lake, from the stream behind it, and from a file that an outage left."""
    worker("cv", "cv-lake-writer")
    stored = [await stored_inspection(nc, number) for number in range(3)]
    table = INSPECTIONS_TABLE
    await until(lambda: (rows := Lake(config).read(table)) is not None and len(rows) == 3)
    spilled = "e" * 32
    data = made_inspection(6).model_copy(update={"inspection_id": spilled}).model_dump_json()
    left = SpillFile(config.home / "inspector", 1 << 20)
    left.append([OutboxEvent(f"{INSPECTION}.line-a", spilled, data.encode())])
    await nc.jetstream().purge_stream(DECISIONS_STREAM)
    stored.append(await stored_inspection(nc, 7))
    async with inspector(config) as http:
        for identity in (spilled, *stored):
            assert (await label(config, http, identity)).status_code == 202, identity
        assert (await label(config, http, "f" * 32)).status_code == 404


async def test_a_label_that_cannot_be_checked_is_sent_again(config, nc, monkeypatch):
    monkeypatch.setattr(known, "_WAIT_S", 0.1)
    away = config.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    async with inspector(away) as http:
        answer = await label(config, http, "a" * 32)
        assert answer.status_code == 503
        assert "send it again" in answer.json()["error"]


async def test_many_new_inspections_are_read_and_old_ones_found_in_the_lake(
    config, nc, monkeypatch
):
    monkeypatch.setattr(known, "MAX_BEHIND", 5)
    monkeypatch.setattr(known, "_CHUNK", 7)
    js, lake = nc.jetstream(), Lake(config)
    outbox = Outbox(nc, config.home / "inspector", 10, 1 << 20)
    ids = known.KnownInspections(lake, outbox, max_ids=15)
    old = [f"{number:032x}" for number in range(100, 130)]
    for day, names in (("2026-01-01", old[:15]), ("2026-01-02", old[15:])):
        # Of a stream of before: the new one begins behind them.
        rows = pa.table({"inspection_id": names, "seq": range(-15, 0)})
        lake.put_table(f"{INSPECTIONS_TABLE}/date={day}/x.parquet", rows)
    reading = asyncio.create_task(ids.run())
    newest = [await stored_inspection(nc, number) for number in range(30)]
    assert await ids.holds(newest[-1], js)
    assert all([await ids.holds(one, js) for one in (*newest, *old[15:])])
    # A customer sends back a part of an inspection that is not in memory any more.
    assert old[0] not in ids._ids
    assert await ids.holds(old[0], js)
    assert not await ids.holds("f" * 32, js)
    await cancel_tasks(reading)


async def test_a_put_into_the_store_triggers_an_inspection(config, nc, line):
    await until(lambda: is_up(config))
    shots = [CAMERA.shot(n) for n in range(100, 106)]
    for shot in shots:
        put(config, shot)
    await until(lambda: all(result(config, shot) for shot in shots), 30)
    found = result(config, shots[0])
    assert found.key == shots[0].key
    mask = Lake(config, config.results).get(found.mask_key)
    assert mask.startswith(b"\x89PNG")
    await until(lambda: published(nc, 6))


async def test_each_image_is_inspected_once_despite_kills_and_duplicates(config, nc, model, worker):
    """Events are duplicated and the worker is killed: one result and one event for each image."""
    shots = [CAMERA.shot(n) for n in range(200, 240)]
    for number, shot in enumerate(shots * 2):
        put(config, shot)
        await publish_image(nc, shot.key, shot.line, f"{number}")
    first = worker("cv", "inspection-worker")
    await until(lambda: published(nc, 5))
    first.kill()
    first.wait(10)
    worker("cv", "inspection-worker")
    await until(lambda: idle(nc), 60)
    assert all(result(config, shot) for shot in shots)
    assert await count(nc, DECISIONS_STREAM) == len(shots)


async def test_workers_share_the_images(config, nc, model, worker):
    """Three workers, one of them killed: one result and one event for each image."""
    shots = [CAMERA.shot(n) for n in range(500, 560)]
    # Each has a port of its own: of three at one, two ended as they started.
    workers = [worker("cv", "inspection-worker", port=free_port()) for _ in range(3)]
    for number, shot in enumerate(shots):
        put(config, shot)
        await publish_image(nc, shot.key, shot.line, f"{number}")
    await until(lambda: published(nc, 5), 150)
    workers[0].kill()
    workers[0].wait(10)
    await until(lambda: idle(nc), 150)
    assert [one.poll() for one in workers[1:]] == [None, None]
    assert all(result(config, shot) for shot in shots)
    assert await count(nc, DECISIONS_STREAM) == len(shots)


async def idle(nc):
    return await lag(nc, STREAM, DURABLE) == 0


async def test_an_invalid_file_is_dead_lettered_and_the_worker_survives(config, nc, model, worker):
    process = worker("cv", "inspection-worker")
    inbox = Lake(config, config.inbox)
    inbox.put("line-a/station-1/lot/broken.jpg", b"<html>")
    for number, frame in enumerate(("broken", "gone")):
        await publish_image(nc, f"line-a/station-1/lot/{frame}.jpg", "line-a", f"{number}")
    shot = CAMERA.shot(300)
    put(config, shot)
    await publish_image(nc, shot.key, shot.line, "good")
    await until(lambda: result(config, shot))
    await until(lambda: idle(nc))
    assert await count(nc, DEAD_STREAM) == 2
    assert process.poll() is None
    # It has a result that says why, so the reconciliation does not publish it again.
    assert reconciliation.without_result(config, min_age_s=-5) == []


async def test_an_image_without_an_event_is_reconciled(config, nc, model, worker):
    shot = CAMERA.shot(400)
    inbox = Lake(config, config.inbox)
    inbox.put(shot.key, shot.jpeg())
    assert await reconciliation.reconcile(config, min_age_s=60) == 0
    assert await reconciliation.reconcile(config, min_age_s=-5) == 1
    worker("cv", "inspection-worker")
    await until(lambda: result(config, shot))
    assert reconciliation.without_result(config, min_age_s=-5) == []


async def test_an_image_that_waits_in_the_stream_is_not_lost(config, nc, monkeypatch):
    monkeypatch.setattr(serving, "_RECONCILE_INTERVAL_S", 0.05)
    monkeypatch.setattr(serving, "_BACKLOG_INTERVAL_S", 0.05)
    monkeypatch.setattr(serving, "reconcile", partial(reconciliation.reconcile, min_age_s=-5))
    shot = CAMERA.shot(401)
    put(config, shot)
    await publish_image(nc, shot.key, shot.line, "first")
    consumer = SharedConsumer(nc, STREAM, DURABLE, f"{IMAGE}.>", 16, before=serving.NAME)
    # Before its consumer exists, too.
    reconciling = asyncio.create_task(serving._reconcile_periodically(config, consumer))
    await asyncio.sleep(0.5)
    assert not reconciling.done()
    await consumer.start()
    await asyncio.sleep(1)
    assert await count(nc, STREAM) == 1
    # Its event is gone, and there is no result.
    batches = consumer.batches()
    await consumer.ack((await anext(batches))[-1])
    await until(lambda: stored_images(nc, 2))
    await cancel_tasks(reconciling)
    await batches.aclose()


async def stored_images(nc, number):
    return await count(nc, STREAM) == number


@pytest.mark.parametrize("number", [410, 411], ids=["same bytes", "other bytes"])
async def test_an_image_that_was_put_again_is_reconciled(config, nc, model, worker, number):
    shot = CAMERA.shot(410)
    put(config, shot)
    await publish_image(nc, shot.key, shot.line, "first")
    worker("cv", "inspection-worker")
    await until(lambda: result(config, shot))
    assert reconciliation.without_result(config, min_age_s=-5) == []
    await asyncio.sleep(1.1)  # the store's times are in seconds
    data = CAMERA.shot(number).jpeg()
    Lake(config, config.inbox).put(shot.key, data)
    assert await reconciliation.reconcile(config, min_age_s=-5) == 1
    wanted = inspection_id(ImageRef.from_key(shot.key), data)
    await until(lambda: result(config, shot).inspection_id == wanted)
    await until(lambda: reconciliation.without_result(config, min_age_s=-5) == [])


async def test_images_that_differ_in_their_extension_alone_have_results_of_their_own(
    config, nc, model, worker
):
    inbox, shots = Lake(config, config.inbox), [CAMERA.shot(n) for n in (420, 421, 422)]
    keys = [f"line-a/station-1/lot-1/420.{ending}" for ending in ("jpg", "JPG", "png")]
    for key, shot in zip(keys[:2], shots, strict=False):
        inbox.put(key, shot.jpeg())
        await publish_image(nc, key, "line-a", key)
    worker("cv", "inspection-worker")
    results = Lake(config, config.results)
    await until(lambda: all(results.exists(f"{result_stem(key)}.json") for key in keys[:2]))
    for key in keys[:2]:
        found = InspectionEvent.model_validate_json(results.get(f"{result_stem(key)}.json"))
        assert found.key == key
        assert results.exists(found.mask_key)
    # The event of the third was lost.
    inbox.put(keys[2], shots[2].jpeg())
    assert reconciliation.without_result(config, min_age_s=-5) == [keys[2]]


def lose(config, key, monkeypatch):
    """Delete an image from the store once the gate has scored the champion."""
    inbox, real = Lake(config, config.inbox), plan.fetch_images

    def fetch(*arguments, **named):
        images = real(*arguments, **named)
        with contextlib.suppress(FileNotFoundError):
            inbox.filesystem.delete_file(f"{inbox.bucket}/{key}")
        return images

    monkeypatch.setattr(plan, "fetch_images", fetch)


async def test_labelled_inspections_become_training_images(config, nc, model, worker, monkeypatch):
    worker("cv", "inspection-worker")
    worker("cv", "cv-lake-writer")
    shots = [CAMERA.shot(n) for n in range(500, 512)]
    for shot in shots:
        put(config, shot)
        await publish_image(nc, shot.key, shot.line, shot.key)
    await until(lambda: all(result(config, shot) for shot in shots))
    for shot in shots[:8]:
        body = {"inspection_id": result(config, shot).inspection_id, "label": shot.label}
        await nc.jetstream().publish(f"{LABEL}.{shot.label}", orjson.dumps(body))
    await until(lambda: len(labelled_inspections(Lake(config), 0.0)) == 8)
    found = labelled_inspections(Lake(config), 0.0)
    images = fetch_images(config, found, CLASSES, 64, lambda *_: None)
    truth = {shot.key: shot.label for shot in shots}
    wanted = [CLASSES.index(truth[key]) for key in found.rows["key"]]
    assert images.label.tolist() == wanted
    assert np.array_equal(images.positive, np.array(wanted) > 0)
    # The gate compares both models on the same images.
    lost, *others = found.counted.rows["key"]
    lose(config, lost, monkeypatch)
    monkeypatch.setattr(plan, "REQUIRED_LABELS", RequiredLabels(1, 0, "images", "defects", ""))
    made = read_model(model)
    evidence = plan.gate_evidence(config, Lake(config), [made, made], lambda _: nullcontext(quiet))
    assert len(evidence.positive) == len(evidence.champion.score) == len(others)
    assert np.array_equal(evidence.champion.score, evidence.challenger.score)
    # One image is deleted and one overwritten by now: their labels do not count.
    inbox = Lake(config, config.inbox)
    inbox.put(others[0], CAMERA.shot(900).jpeg())
    images = fetch_images(config, found, CLASSES, 64, lambda *_: None)
    kept = ~found.rows["key"].isin([lost, others[0]]).to_numpy()
    assert images.label.tolist() == np.array(wanted)[kept].tolist()
    assert images.source.tolist() == np.flatnonzero(kept).tolist()


async def consumer_exists(nc, stream, durable):
    """Whether a durable consumer exists yet: shadow mode scores only later decisions."""
    try:
        await nc.jetstream().consumer_info(stream, durable)
    except NotFoundError:
        return False
    return True


async def test_a_challenger_scores_the_same_images(config, nc, model, vision_file, worker):
    worker("cv", "inspection-worker")
    put_served(config, write_card(vision_file, cv_card(version=9)), DESIGN, CHALLENGER, 9)
    await announce(nc, DESIGN, 9, "challenger")
    await announce(nc, DESIGN, 1)
    worker("cv", "cv-shadow")
    await until(lambda: consumer_exists(nc, DECISIONS_STREAM, "shadow"))
    # Another image came under the name of the first one since.
    shot, other = CAMERA.shot(600), CAMERA.shot(601)
    Lake(config, config.inbox).put(other.key, CAMERA.shot(602).jpeg())
    of_before = made_inspection().model_copy(
        update={"key": other.key, "place": ImageRef.from_key(other.key)}
    )
    await nc.jetstream().publish(
        inspection_subject(of_before), of_before.model_dump_json().encode()
    )
    put(config, shot)
    await publish_image(nc, shot.key, shot.line, "one")
    await until(lambda: Lake(config).read(shadow_table(DESIGN)) is not None)
    rows = Lake(config).read(shadow_table(DESIGN))
    assert rows["score"][0].as_py() == pytest.approx(result(config, shot).defect, abs=1e-5)
    assert rows["version"].to_pylist() == [9]


def test_a_batch_is_resumed(config, model, tmp_path, nc):
    shots = [CAMERA.shot(n) for n in range(700, 706)]
    for shot in shots:
        put(config, shot)
    Lake(config, config.inbox).put("odd name/x.jpg", b"<html>")
    manifest = tmp_path / "manifest.csv"
    rows = [f"{config.inbox},{s.key}" for s in shots]
    rows += [f"{config.inbox},odd+name/x.jpg", f"{config.inbox},none/n/n/n.jpg"]
    manifest.write_text("\n".join(["Bucket,Key", *rows]), encoding="utf-8-sig")
    items = batch.read_manifest(config, str(manifest))
    report = tmp_path / "report.csv"
    first = batch.run(config, items[:3], report, 2, lambda *_: None)
    assert (first.succeeded, first.failed, first.resumed) == (3, 0, 0)
    # As if it had been killed while it wrote the third row.
    report.write_bytes(report.read_bytes()[:-5])
    second = batch.run(config, items, report, 2, lambda *_: None)
    assert (second.succeeded, second.failed, second.resumed) == (4, 2, 2)
    text = report.read_text()
    assert text.count("succeeded") == 6
    assert "no such object" in text
    assert "not a JPEG or PNG" in text


def test_a_batch_without_a_champion_says_what_to_do(config, nc, tmp_path):
    Lake(config).remove(["models"])
    with pytest.raises(ValueError, match=r"no champion to inspect with: `whiteboard up`"):
        batch.run(config, [], tmp_path / "report.csv", 2, lambda *_: None)


def test_a_report_does_not_overwrite_another_file(config, model, tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("inbox,a/b/c/d.jpg")
    with pytest.raises(ValueError, match="not a batch report"):
        batch.run(config, [], path, 2, lambda *_: None)
    assert path.read_text() == "inbox,a/b/c/d.jpg"


@pytest.mark.parametrize("text", ["inbox", "inbox,", "a,b,c,d"])
def test_an_invalid_row_of_a_manifest_is_named(config, tmp_path, text):
    path = tmp_path / "manifest.csv"
    path.write_text(f"inbox,a/b/c/d.jpg\n{text}\n")
    with pytest.raises(ValueError, match="line 2"):
        batch.read_manifest(config, str(path))


@pytest.mark.parametrize("data", [b"inbox,\xff\xfe.jpg", b"inbox," + b"a" * 200_000])
def test_an_invalid_manifest_is_named(config, tmp_path, data):
    path = tmp_path / "manifest.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"manifest\.csv is not a CSV"):
        batch.read_manifest(config, str(path))


async def test_edge_inspections_are_forwarded_once(config, nc, vision_model, tmp_path):
    folder = tmp_path / "images"
    put_shots(folder, range(3))
    edge.run(vision_model, folder, tmp_path, quiet)
    unreachable = config.model_copy(update={"nats_url": "nats://127.0.0.1:1"})
    with pytest.raises(ConnectionError):
        await edge.forward(unreachable, tmp_path, quiet)

    def inspect_another(done: int, _: int) -> None:
        if done == 2:
            put_shots(folder, [3])
            edge.run(vision_model, folder, tmp_path, quiet)

    # The line inspects while it forwards, and those inspections are not lost.
    assert await edge.forward(config, tmp_path, inspect_another) == 3
    assert await edge.forward(config, tmp_path, quiet) == 1
    assert await edge.forward(config, tmp_path, quiet) == 0
    assert edge.run(vision_model, folder, tmp_path, quiet).inspected == 0
    assert await count(nc, DECISIONS_STREAM) == 4
    # What an older version stored otherwise stops nothing; of what was sent, the ids are kept.
    put_shots(folder, [4])
    with closing(sqlite3.connect(tmp_path / "inspections.sqlite")) as db, db:
        assert db.execute("SELECT SUM(LENGTH(event)) FROM inspections").fetchone() == (0,)
        db.execute("INSERT INTO inspections (id, event) VALUES ('old', '{}')")
    assert edge.run(vision_model, folder, tmp_path, quiet).waiting == 2
    assert await edge.forward(config, tmp_path, quiet) == 1
    assert edge.run(vision_model, folder, tmp_path, quiet).waiting == 1


def put_shots(folder, numbers):
    for shot in (CAMERA.shot(n) for n in numbers):
        path = folder / shot.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.jpeg())
