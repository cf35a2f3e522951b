"""The monitor as a process: alarms on drift, silence otherwise, and it goes on where it stopped."""

import asyncio

import numpy as np
import orjson
import pytest

from monitoring.alerts import STREAM, newest
from monitoring.service import drift_table
from services.fraud.features import FEATURES
from services.fraud.ingestion import DECISION
from services.fraud.monitor import COLUMNS, WATCHED, reference
from services.fraud.serving import EXAMPLE
from services.skeleton.champion import reference_path
from services.skeleton.lake import Lake
from tests.integration.conftest import until

DAY = 86_400.0
BEGIN = 1.65e9 - 1.65e9 % DAY
PER_DAY = 2_100


def day_of(rng, number, shift):
    """Vectors of a day, (N, F), their scores and times."""
    vectors = rng.normal(size=(PER_DAY, len(FEATURES)))
    vectors[:, FEATURES.index("amount")] += shift
    return vectors, rng.random(PER_DAY), BEGIN + DAY * number + np.linspace(0, DAY - 1, PER_DAY)


async def decide(nc, rng, number, shift=0.0, version=1):
    js = nc.jetstream(publish_async_max_pending=4_000)
    vectors, score, time = day_of(rng, number, shift)
    stamps = np.array(time * 1e6, dtype="datetime64[us]").astype(str)
    for i in range(PER_DAY):
        event = {
            "model": f"xgboost:{version}",
            "score": score[i],
            "degraded": False,
            "features": vectors[i],
            "transaction": {**EXAMPLE, "event_time": f"{stamps[i]}+00:00"},
        }
        data = orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)
        await js.publish_async(f"{DECISION}.0", data)
    await js.publish_async_completed()


@pytest.fixture
def normal(config, nc):
    """What is normal, kept for version 1."""
    rng = np.random.default_rng(0)
    days = [day_of(rng, number, 0.0) for number in range(12)]
    made = reference(*(np.concatenate(part) for part in zip(*days, strict=True)))
    Lake(config).put(reference_path("fraud", 1), made.to_bytes())


def windows(config):
    rows = Lake(config).read(drift_table("fraud"))
    return [] if rows is None else rows.to_pylist()


async def test_drift_raises_one_alert_a_window_and_restarts_lose_none(config, nc, normal, worker):
    from contextlib import suppress

    from nats.js.errors import NotFoundError

    with suppress(NotFoundError):
        await nc.jetstream().delete_stream(STREAM)
    rng = np.random.default_rng(1)
    first = worker("services.fraud.monitor")
    await decide(nc, rng, 20)
    await decide(nc, rng, 21, shift=2.0)
    await until(lambda: len(windows(config)) == 1)
    # Killed in the middle of a window: it is read again from its beginning.
    first.kill()
    first.wait(10)
    await decide(nc, rng, 22)
    worker("services.fraud.monitor")
    await until(lambda: len(windows(config)) == 2)
    clean, drifted = windows(config)
    assert clean["rows"] == drifted["rows"] == PER_DAY
    assert clean["alarms"] == []
    assert {"psi:amount", "ks:amount"} <= set(drifted["alarms"])
    assert tuple(clean["columns"]) == COLUMNS
    await until(lambda: count_alerts(nc, 1))
    [alert] = await newest(nc.jetstream())
    assert alert.kind == "drift"
    assert alert.model == "xgboost:1"
    assert alert.findings["psi"] == ["amount"]
    assert "amount" in alert.said
    assert set(WATCHED) > {"amount"}


async def count_alerts(nc, number):
    return len(await newest(nc.jetstream())) == number


async def test_a_model_without_a_reference_is_let_be(config, nc, normal, worker):
    process = worker("services.fraud.monitor")
    rng = np.random.default_rng(2)
    await decide(nc, rng, 30, version=9)
    await decide(nc, rng, 31)
    await decide(nc, rng, 32)
    await until(lambda: len(windows(config)) == 1)
    assert windows(config)[0]["model"] == "xgboost:1"
    await asyncio.sleep(0)
    assert process.poll() is None
