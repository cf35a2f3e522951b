"""Which parts of the simulated line get a label, whose it is, and how often it counts."""

import asyncio
import itertools

import orjson
import pytest

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    LABEL,
    STREAM,
    parse_inspection,
    parse_label,
)
from services.cv_inspection.monitoring.quality import OutcomeReader
from services.cv_inspection.problem import DESIGN, GOOD
from services.cv_inspection.retraining import outcomes
from services.cv_inspection.retraining.outcomes import labelled_inspections
from services.cv_inspection.simulator import returns
from services.cv_inspection.simulator.camera import LIVE_FROM, Camera
from services.cv_inspection.simulator.returns import Returns
from services.cv_inspection.simulator.station import BUCKET, StationReport, run_stations
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import ensure_bucket
from services.platform.streaming.stored import history
from tests.integration.conftest import until
from tests.integration.cv_inspection.test_inspection_line import is_up
from tests.streams import delete_stream
from tests.unit.cv_inspection.vision_fixtures import cv_card, quiet

pytestmark = pytest.mark.slow

IMAGES, SEED, SHARE = 60, 3, 0.1


async def forget_simulation(config, nc):
    await delete_stream(config, nc.jetstream(), f"KV_{BUCKET}")


async def read(nc, stream, subject, parse):
    messages = [m async for _, m in history(nc.jetstream(), stream, subject)]
    return [parse(message.data or b"") for message in messages]


async def test_a_label_comes_of_stopped_parts_audits_and_returns_only(
    config, nc, vision_file, worker, monkeypatch
):
    await forget_simulation(config, nc)
    # Of what escapes, every second part comes back: five images later, the others after the run.
    monkeypatch.setattr(returns, "_EARLIEST", 5)
    turns = itertools.cycle((0.0, 1.0))
    monkeypatch.setattr(returns, "draw", lambda *_: next(turns))
    put_served(config, write_card(vision_file, cv_card(threshold=0.6)), DESIGN, CHAMPION, 1)
    for process in ("inspector", "inspection-worker", "cv-lake-writer"):
        worker("cv", process)
    await until(lambda: is_up(config), 60)
    report = StationReport()
    await run_stations(config, report, SEED, 10.0, 0.0, IMAGES / 10, quiet)
    assert report.failures == {}
    inspections = await read(nc, DECISIONS_STREAM, ">", parse_inspection)
    truth = {(shot := Camera(SEED).shot(LIVE_FROM + n)).key: shot.label for n in range(IMAGES)}
    seen = {i.inspection_id for i in inspections if i.stopped or i.audit}
    escaped = {i.inspection_id for i in inspections if truth[i.key] != GOOD} - seen
    assert len(inspections) == IMAGES
    assert report.audits == sum(i.audit for i in inspections) > 0
    assert all(i.propensity == (1.0 if i.stopped else SHARE) for i in inspections)
    labels = await read(nc, STREAM, f"{LABEL}.>", parse_label)
    assert {label.inspection_id for label in labels if label.by == "simulator"} == seen
    back = {label.inspection_id for label in labels if label.by == "customer"}
    out = await Returns.open(await ensure_bucket(nc.jetstream(), BUCKET))
    assert (report.returned, report.labels) == (len(back), len(labels))
    assert back | set(out.take(10**9)) == escaped
    assert 0 < len(back) < len(escaped)
    await readers(config, inspections, seen, back)
    monkeypatch.setattr(outcomes, "MAX_LABELS", 5)
    monkeypatch.setattr(outcomes, "_RANGE", 3)
    newest = await asyncio.to_thread(labelled_inspections, Lake(config), 0.0)
    assert set(newest.rows["inspection_id"]) == {label.inspection_id for label in labels[-5:]}


async def readers(config, inspections, seen, back):
    """Retraining reads returns, too; what is counted weighs 1, or 10 where it is an audit."""
    lake = Lake(config)
    await until(lambda: len(labelled_inspections(lake, 0.0)) == len(seen | back))
    audits = {i.inspection_id for i in inspections if i.audit}
    found = labelled_inspections(lake, 0.0)
    weights = dict(zip(found.rows["inspection_id"], found.rows["weight"], strict=True))
    assert weights == {i: 0.0 if i in back else 10.0 if i in audits else 1.0 for i in weights}
    assert set(found.counted.rows["inspection_id"]) == seen
    # A later training reads the returns of parts that an earlier one could not know.
    now = found.rows["event_time"].max().timestamp()
    late = await asyncio.to_thread(labelled_inspections, lake, now)
    assert set(late.rows["inspection_id"]) <= back
    monitored = OutcomeReader(lake)({})
    assert set(monitored.rows["inspection_id"]) == seen


async def test_returns_are_kept_between_runs(config, nc):
    await forget_simulation(config, nc)
    bucket = await ensure_bucket(nc.jetstream(), BUCKET)
    first = await Returns.open(bucket)
    await first.send_out("a", "pit", 100)
    await first.send_out("b", "crack", 9_000)
    again = await Returns.open(bucket)
    assert again.take(100 + 2 * returns.WEEK_IMAGES - 1) == {}
    assert again.take(100 + 6 * returns.WEEK_IMAGES) == {"a": "pit"}
    # Not stored yet: after a crash it comes back once more.
    assert len(await Returns.open(bucket)) == 2
    await again.store()
    assert list(orjson.loads((await bucket.get("cv.returns")).value)) == ["b"]
