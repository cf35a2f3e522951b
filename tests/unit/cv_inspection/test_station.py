"""Stations: images that the store does not take, and the numbers of images."""

import asyncio
import time
from contextlib import nullcontext
from types import SimpleNamespace

from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError

from services.cv_inspection.evaluation import live
from services.cv_inspection.simulator import station
from services.cv_inspection.simulator.camera import LIVE_FROM, Camera
from services.cv_inspection.simulator.image_numbers import ImageNumbers
from services.platform.hooks import TrafficRequest
from services.platform.settings import Settings
from tests.unit.cv_inspection.vision_fixtures import quiet


async def test_an_image_that_the_store_does_not_take_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(station, "_RETRY_S", 0.01)
    config = Settings(home=tmp_path, s3_endpoint="http://127.0.0.1:9")
    one = station.Station(
        config, Client(), None, None, station.StationReport()
    )  # it posts nothing, and no part returns
    await one._put(Camera(1).shot(0), time.perf_counter())
    assert (one.report.landed, one.report.lost) == (0, 0)
    assert sum(one.report.failures.values()) == 1
    assert next(iter(one.report.failures)).startswith("store: ")
    assert one._due == {}


class Bucket:
    """The part of a NATS bucket that is used here."""

    def __init__(self):
        self.stored = {}

    async def get(self, key):
        if key not in self.stored:
            raise KeyNotFoundError
        return SimpleNamespace(value=self.stored[key])

    async def put(self, key, value):
        self.stored[key] = value


async def test_a_run_that_is_killed_repeats_no_image():
    bucket, taken = Bucket(), []
    for count in (0, 1, 7, 500):
        numbers = await ImageNumbers.open(bucket)
        puts, posts = numbers.laps(), numbers.laps()
        for turn in range(count):
            taken += [next(puts), next(posts)] if turn % 5 == 0 else [next(posts)]
            await asyncio.sleep(0)
        # Killed here: `close` is not called.
    assert len(taken) == len(set(taken)) > 500
    assert max(taken) - LIVE_FROM < len(taken) + 5 * 120


async def test_a_run_that_ends_skips_at_most_a_lap_a_kind():
    bucket = Bucket()
    for first in (LIVE_FROM, LIVE_FROM + 12):
        numbers = await ImageNumbers.open(bucket)
        assert numbers.next == first
        puts, posts = numbers.laps(), numbers.laps()
        seen = [next(puts) for _ in range(6)] + [next(posts) for _ in range(6)]
        assert sorted(seen) == list(range(first, first + 12))
        # Each kind sees every station of every line.
        stations = {tuple(Camera(1).shot(n).key.split("/")[:2]) for n in seen[:6]}
        assert len(stations) == 6
        await numbers.close()


def test_a_simulation_that_is_interrupted_has_figures(monkeypatch):
    async def interrupted(_config, report, *_):
        report.landed = 3
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "run_stations", interrupted)
    request = TrafficRequest(4.0, 0.0, 60.0, 7, "")
    assert live.simulate(Settings(), request, lambda _: nullcontext(quiet))["landed"] == 3
