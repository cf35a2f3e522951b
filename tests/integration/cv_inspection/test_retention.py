"""Retention: old inspections and images expire, and never one that something needs."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from services.cv_inspection.ingestion.reconciliation import objects, without_result
from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.retraining import retention
from services.cv_inspection.retraining.retention import RETENTION_DAYS, expire, kept_from
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake, partition_date
from tests.unit.cv_inspection.vision_fixtures import cv_card

NOW = datetime(2026, 11, 1, tzinfo=UTC)
OLD, NEW = "line-a/station-1/old", "line-a/station-1/new"


@contextmanager
def quiet(title):
    yield lambda *_: None


def inspection(number, at):
    return {
        "seq": number, "event_time": at, "inspection_id": f"{number:032x}",
        "key": f"{OLD}/{number}.jpg", "line": "line-a", "station": "station-1", "lot": "old",
        "label": "good", "defect": 0.1, "decision": "pass", "reason": "", "threshold": 0.5,
        "model": "model:1", "defect_share": 0.0, "brightness": 0.5, "contrast": 0.1,
        "sharpness": 0.1, "clipped": 0.0,
    }  # fmt: skip


@pytest.fixture
def lake(config):
    buckets = [Lake(config, bucket) for bucket in (config.bucket, config.inbox, config.results)]
    for bucket in buckets:
        bucket.remove([""])
    lake = buckets[0]
    for number, age in enumerate((400, 200, 100, 0), start=1):
        rows = [inspection(number, NOW - timedelta(days=age))]
        table = pa.Table.from_pylist(rows, schema=INSPECTIONS)
        lake.write(INSPECTIONS_TABLE, table, f"lake-{number:012d}-{number:012d}")
    yield lake
    for bucket in buckets:
        bucket.remove([""])


@pytest.fixture
def line(config, lake, monkeypatch):
    """Images and results; those of the lot `old` seem a year old."""
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    for stem in (f"{OLD}/1", f"{OLD}/waits", f"{NEW}/2"):
        inbox.put(f"{stem}.jpg", b"image")
    for stem in (f"{OLD}/1", f"{OLD}/gone", f"{NEW}/2"):
        for ending in ("json", "mask.png", "map.png"):
            results.put(f"{stem}.{ending}", b"result")
    year_ago = (NOW - timedelta(days=365)).timestamp()

    def dated(bucket):
        return [(key, year_ago if OLD in key else at) for key, at in objects(bucket)]

    monkeypatch.setattr(retention, "objects", dated)
    return inbox, results


def keys(bucket):
    return sorted(key for key, _ in objects(bucket))


def test_old_inspections_and_images_go(config, lake, line):
    inbox, results = line
    found = expire(config, quiet)
    newest = f"{NOW - timedelta(days=RETENTION_DAYS):%Y-%m-%d}"
    assert (found.before, found.files, found.images, found.results) == (newest, 2, 1, 6)
    assert [partition_date(f) for f in lake.files(INSPECTIONS_TABLE)] == [
        "2026-07-24",
        "2026-11-01",
    ]
    assert keys(inbox) == [f"{NEW}/2.jpg", f"{OLD}/waits.jpg"]
    assert keys(results) == [f"{NEW}/2.{ending}" for ending in ("json", "map.png", "mask.png")]
    again = expire(config, quiet)
    assert (again.files, again.images, again.results) == (0, 0, 0)


def test_an_image_without_a_result_waits(config, line):
    expire(config, quiet)
    assert without_result(config, min_age_s=-1.0) == [f"{OLD}/waits.jpg"]


def test_what_the_gate_and_returned_parts_need_stays(config, lake, vision_file):
    """The champion was trained 150 days ago: parts come back from 90 days before that."""
    card = cv_card(trained_until=NOW - timedelta(days=150))
    put_served(config, write_card(vision_file, card), DESIGN, CHAMPION, 1)
    assert kept_from(config) == NOW - timedelta(days=240)
    expire(config, quiet)
    assert len(lake.files(INSPECTIONS_TABLE)) == 3


def test_without_inspections_nothing_expires(config, lake):
    lake.remove(["cv"])
    assert expire(config, quiet).before == ""


def test_a_retention_within_the_time_of_returns_is_refused(config):
    with pytest.raises(ValueError, match="parts come back for 90 days"):
        kept_from(config, 60)
