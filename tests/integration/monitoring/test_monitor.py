"""The monitor as a process: alarms on drift, none otherwise, and it resumes where it stopped."""

import asyncio

import numpy as np
import orjson
import pytest

from monitoring.alerts import STREAM, newest_alerts
from monitoring.drift_table import read_windows
from monitoring.reference import Reference
from monitoring.sources import sources_path
from monitoring.window_watcher import MonitorSpec, WindowWatcher
from services.cv_inspection.features.image import QUALITY_MEASURES
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.ingestion.events import DECISIONS_STREAM, ImageRef, InspectionEvent
from services.cv_inspection.monitoring import drift as cv
from services.cv_inspection.monitoring.quality import QUALITY_SPEC
from services.fraud.features.states import FEATURES, GROUPS
from services.fraud.ingestion.events import DECISION
from services.fraud.ingestion.events import DECISIONS_STREAM as FRAUD_DECISIONS
from services.fraud.monitoring.drift import (
    COLUMNS,
    MONITORED_FEATURES,
    monitored_columns,
    reference,
)
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.models.names import reference_path
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message
from tests.integration.conftest import lag, until
from tests.streams import delete_stream

DAY = 86_400.0
BEGIN = 1.65e9 - 1.65e9 % DAY
PER_DAY = 2_100


def day_of(rng, number, shift):
    """Vectors of a day, (N, F), their scores and times."""
    vectors = rng.normal(size=(PER_DAY, len(FEATURES)))
    vectors[:, FEATURES.index("amount")] += shift
    return vectors, rng.random(PER_DAY), BEGIN + DAY * number + np.linspace(0, DAY - 1, PER_DAY)


async def decide(nc, rng, number, shift=0.0, version=1, away=range(0)):
    """Decisions of a day; those of `away` were taken without the online store."""
    js = nc.jetstream(publish_async_max_pending=4_000)
    vectors, score, time = day_of(rng, number, shift)
    known = [FEATURES.index(name) for name in GROUPS["transaction"]]
    for i in away:
        vectors[i, np.setdiff1d(np.arange(len(FEATURES)), known)] = np.nan
        score[i] = 0.01
    stamps = np.array(time * 1e6, dtype="datetime64[us]").astype(str)
    for i in range(PER_DAY):
        event = {
            "model": f"xgboost:{version}",
            "score": score[i],
            "degraded": i in away,
            "features": vectors[i],
            "transaction": {**EXAMPLE_TRANSACTION, "event_time": f"{stamps[i]}+00:00"},
        }
        data = orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)
        await js.publish_async(f"{DECISION}.0", data)
    await js.publish_async_completed()


@pytest.fixture
def normal(config, nc):
    """What is normal, kept for version 1."""
    rng = np.random.default_rng(0)
    days = [day_of(rng, number, 0.0) for number in range(12)]
    vectors, score, time = (np.concatenate(part) for part in zip(*days, strict=True))
    made = reference(monitored_columns(vectors, score), time)
    Lake(config).put(reference_path("fraud", 1), made.to_bytes())


def windows(config):
    rows = read_windows(Lake(config), "fraud")
    return [] if rows is None else rows.to_pylist()


@pytest.mark.slow
async def test_drift_raises_one_alert_a_window_and_restarts_lose_none(config, nc, normal, worker):
    await delete_stream(config, nc.jetstream(), STREAM)
    rng = np.random.default_rng(1)
    first = worker("fraud", "monitor")
    await decide(nc, rng, 20, away=range(900, 1_100))
    await decide(nc, rng, 21, shift=2.0)
    await until(lambda: len(windows(config)) == 1)
    # The messages of an open window are acknowledged.
    await until(lambda: all_acknowledged(nc))
    # Killed in the middle of a window: it is read again from its beginning.
    first.kill()
    first.wait(10)
    await decide(nc, rng, 22)
    worker("fraud", "monitor")
    await until(lambda: len(windows(config)) == 2)
    clean, drifted = windows(config)
    assert clean["rows"] == drifted["rows"] == PER_DAY
    assert clean["alarms"] == []
    assert {"psi:amount", "ks:amount"} <= set(drifted["alarms"])
    assert tuple(clean["columns"]) == COLUMNS
    await until(lambda: count_alerts(nc, 1))
    [alert] = await newest_alerts(nc.jetstream())
    assert alert.kind == "drift"
    assert alert.model == "xgboost:1"
    assert alert.findings["psi"] == ["amount"]
    assert "amount" in alert.said
    assert set(MONITORED_FEATURES) > {"amount"}


async def all_acknowledged(nc):
    return await lag(nc, FRAUD_DECISIONS, "monitor") == 0


async def count_alerts(nc, number):
    return len(await newest_alerts(nc.jetstream())) == number


@pytest.mark.slow
async def test_a_model_without_a_reference_is_not_monitored(config, nc, normal, worker):
    process = worker("fraud", "monitor")
    rng = np.random.default_rng(2)
    await decide(nc, rng, 30, version=9)
    await decide(nc, rng, 31)
    await decide(nc, rng, 32)
    await until(lambda: len(windows(config)) == 1)
    assert windows(config)[0]["model"] == "xgboost:1"
    await asyncio.sleep(0)
    assert process.poll() is None


def inspections(rng, sharp_at_b2=0.1):
    """One window of inspections, three stations in turn, one of which may be blurred."""
    for number in range(cv.WINDOW_IMAGES):
        station = ("line-a/station-1", "line-b/station-1", "line-b/station-2")[number % 3]
        sharpness = sharp_at_b2 if station == "line-b/station-2" else 0.1
        quality = dict.fromkeys(QUALITY_MEASURES, 0.5)
        quality |= {"clipped": 0.0, "sharpness": sharpness + rng.normal(0, 0.01)}
        yield station, quality, rng.uniform(0, 0.1)


def event(number, station, quality, defect):
    line, name = station.split("/")
    return InspectionEvent(
        inspection_id=f"{number:032x}", key=None,
        place=ImageRef(line=line, station=name, lot="l", frame="f"),
        at="2026-03-01T00:00:00Z", label="good", defect=defect, probabilities={"good": 1 - defect},
        decision="pass", reason="", threshold=0.5, model="efficientnet:1", defect_share=0.0,
        quality=quality, mask_key=None,
    )  # fmt: skip


@pytest.mark.parametrize("old", [False, True], ids=["reference", "reference before novelty"])
def test_an_alarm_names_the_station_that_is_out_of_focus(config, old):
    rng = np.random.default_rng(4)
    known = [one for _ in range(5) for one in inspections(rng)]
    measures = np.array([[quality[name] for name in QUALITY_MEASURES] for _, quality, _ in known])
    pixels = np.zeros((len(known), 1, 1, 3), np.uint8)
    none, zero = np.zeros((len(known), 1, 1), bool), np.zeros(len(known), np.int64)
    images = LabelledImages.from_arrays(pixels, zero, none, zero, measures, 1.0)
    made = cv.reference(images, np.array([defect for *_, defect in known]), zero.astype(float))
    if old:
        rows = np.column_stack([measures, [defect for *_, defect in known]])
        windows = [rows[rng.integers(0, len(rows), 150)] for _ in range(100)]
        made = Reference.of(cv.COLUMNS[1:], rows, windows)
    Lake(config).put(reference_path("cv", 1), made.to_bytes())
    stream = [one for sharp in (0.1, 0.1, 0.1, 0.05, 0.1) for one in inspections(rng, sharp)]
    messages = [
        Message("", event(number, *one).model_dump_json().encode(), number + 1, 0, "")
        for number, one in enumerate(stream)
    ]
    spec = MonitorSpec("cv", DECISIONS_STREAM, cv.Observer(), cv.new_windows, QUALITY_SPEC)
    # A state that cannot be read is learned anew.
    Lake(config).put(sources_path("cv"), b"{}")
    watcher = WindowWatcher(Lake(config), spec)
    watcher.take(messages)
    *clean, drifted = watcher.closed
    assert [closed.drifted_sources for closed in clean] == [{}, {}, {}]
    assert drifted.drifted_sources == {"sharpness": "line-b/station-2"}
    assert drifted.sources is None
    # Another process resumes where this one stopped.
    Lake(config).put(sources_path("cv"), clean[-1].sources)
    begin = next(n for n, message in enumerate(messages) if message.seq > clean[-1].last_seq)
    again = WindowWatcher(Lake(config), spec)
    again.take(messages[begin:])
    assert [closed.drifted_sources for closed in again.closed] == [drifted.drifted_sources]
