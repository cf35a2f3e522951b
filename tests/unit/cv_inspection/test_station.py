"""Stations: what happens to an image that the store does not take."""

import time

from nats.aio.client import Client

from services.cv_inspection.simulator import station
from services.cv_inspection.simulator.camera import Camera
from services.platform.settings import Settings


async def test_an_image_that_the_store_does_not_take_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(station, "_RETRY_S", 0.01)
    config = Settings(home=tmp_path, s3_endpoint="http://127.0.0.1:9")
    one = station.Station(config, Client(), None, None)  # it posts nothing, and no part returns
    await one._put(Camera(1).shot(0), time.perf_counter())
    assert (one.report.landed, one.report.lost) == (0, 0)
    assert sum(one.report.failures.values()) == 1
    assert next(iter(one.report.failures)).startswith("store: ")
    assert one._due == {}
