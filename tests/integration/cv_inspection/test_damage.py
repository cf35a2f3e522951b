"""What a fault did to images, counted in buckets and a lake that are damaged."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import pyarrow as pa
import pytest

from services.cv_inspection.evaluation import damage as counting
from services.cv_inspection.evaluation.damage import damage, objects
from services.cv_inspection.ingestion.events import publish_image
from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.problem import DESIGN, REINSPECTION_COST_MINOR
from services.cv_inspection.simulator.camera import Camera
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from tests.integration.conftest import until
from tests.unit.cv_inspection.vision_fixtures import cv_card

KEYS = [f"line-a/station-1/lot-1/{i:04d}.jpg" for i in range(12)]
AT = datetime(2026, 11, 29, 10, tzinfo=UTC)


def row(number, key):
    values = {"seq": number, "event_time": AT, "key": key, "inspection_id": f"{number:032x}",
              "decision": "pass", "defect": 0.01, "model": "m:1"}  # fmt: skip
    for field in INSPECTIONS:
        if not field.nullable and field.name not in values:
            values[field.name] = "" if field.type == pa.string() else 0.0
    return values


def write(lake, rows):
    last = rows[-1]["seq"]
    table = pa.Table.from_pylist(rows, INSPECTIONS)
    lake.write(INSPECTIONS_TABLE, table, f"cv-lake-{1:012d}-{last:012d}")


def put_result(config, logged, **changes):
    body = {name: logged[name] for name in ("inspection_id", "decision", "defect", "model")}
    path = logged["key"].replace(".jpg", ".json")
    Lake(config, config.results).put(path, orjson.dumps(body | changes))


@pytest.fixture
def lake(config, nc, monkeypatch):
    async def sequences(*_):
        return (0, 100), (0, 100)

    monkeypatch.setattr(counting, "_sequences", sequences)
    for key in KEYS:
        Lake(config, config.inbox).put(key, b"an image")
    return Lake(config)


def counted(config):
    now = datetime.now(UTC)
    return damage(config, now - timedelta(minutes=1), now + timedelta(minutes=1))


def test_nothing_was_damaged(config, lake):
    rows = [row(i, key) for i, key in enumerate(KEYS, start=1)]
    write(lake, [*rows, row(13, None)])
    for one in rows:
        put_result(config, one)
    found = counted(config)
    assert (found.came_in, found.unanswered, found.compared) == (13, 0, 12)
    assert (found.lost, found.doubled, found.skewed, found.eur) == (0, 0, 0, 0.0)


def test_each_damage_is_counted_once(config, lake):
    rows = [row(i, key) for i, key in enumerate(KEYS, start=1)]
    # The first is not inspected, the second not logged, the third logged twice, the fourth differs.
    again = rows[2] | {"seq": 20}
    write(lake, [rows[2], *rows[3:], again])
    put_result(config, rows[1])
    put_result(config, rows[2])
    put_result(config, rows[3], decision="reject")
    for one in rows[4:-1]:
        put_result(config, one)
    # The store could not read the last.
    path = KEYS[-1].replace(".jpg", ".json")
    Lake(config, config.results).put(path, orjson.dumps({"key": KEYS[-1], "error": "no such"}))
    found = counted(config)
    assert (found.came_in, found.unanswered, found.degraded) == (12, 1, 1)
    assert (found.lost, found.doubled, found.skewed) == (1, 1, 1)
    assert found.eur == 2 * REINSPECTION_COST_MINOR / 100


def test_an_image_that_was_put_again_has_no_result_yet(config, lake, monkeypatch):
    rows = [row(i, key) for i, key in enumerate(KEYS, start=1)]
    write(lake, rows)
    for one in rows:
        put_result(config, one)
    listed = counting.objects

    def later(bucket):
        for key, at in listed(bucket):
            yield key, at + (30.0 if key == KEYS[0] else 0.0)

    monkeypatch.setattr(counting, "objects", later)
    assert counted(config).unanswered == 1


def test_images_of_another_time_are_not_counted(config, lake):
    write(lake, [row(1, "line-a/station-1/lot-0/0.jpg")])
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    found = damage(config, long_ago, long_ago + timedelta(minutes=1))
    assert (found.unanswered, found.lost, found.eur) == (0, 0, 0.0)


async def test_an_image_of_the_second_in_which_the_time_begins_is_not_lost(monkeypatch):
    """The store's times are whole seconds, so it counts, and was inspected before the time."""
    inspected = [AT + timedelta(seconds=0.3), AT + timedelta(seconds=5)]

    @asynccontextmanager
    async def settled(*_):
        yield None

    async def acknowledged(*_):
        return True

    async def stored_between(js, stream, since, until):
        return tuple(sum(at < moment for at in inspected) for moment in (since, until))

    monkeypatch.setattr(counting, "settled", settled)
    monkeypatch.setattr(counting, "wait_until_acknowledged", acknowledged)
    monkeypatch.setattr(counting, "stored_between", stored_between)
    begin = AT + timedelta(seconds=0.7)
    within, around = await counting._sequences(None, begin, begin + timedelta(seconds=9))
    assert (within, around) == ((1, 2), (0, 2))


@pytest.mark.slow
async def test_images_of_a_worker_that_was_away_are_counted_once(config, nc, worker, vision_file):
    put_served(config, write_card(vision_file, cv_card()), DESIGN, CHAMPION, 1)
    worker("cv", "cv-lake-writer")
    begin = datetime.now(UTC)
    shots = [Camera(5).shot(number) for number in range(9)]
    for shot in shots:
        Lake(config, config.inbox).put(shot.key, shot.jpeg())
    # The store's notification of the last one is lost.
    for shot in shots[:-1]:
        await publish_image(nc, shot.key, shot.line, shot.key)
    first = worker("cv", "inspection-worker")
    await until(lambda: any(objects(Lake(config, config.results))))
    first.kill()
    first.wait()
    worker("cv", "inspection-worker")
    found = await asyncio.to_thread(damage, config, begin, datetime.now(UTC))
    assert (found.came_in, found.unanswered, found.degraded) == (9, 1, 0)
    assert (found.lost, found.doubled, found.skewed, found.compared) == (0, 0, 0, 8)
    assert found.eur == REINSPECTION_COST_MINOR / 100
