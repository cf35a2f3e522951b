"""The planner: staffing against simulation, zones, bounds, and plans that cannot be met."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.calibration import Point, Round, marginal_us, medians, predicted_knees
from services.cli.main import app
from services.cv_inspection.retraining import retention as cv_retention
from services.designs import DESIGNS
from services.fraud.retraining import retention as fraud_retention
from services.platform.capacity.parts import Capacity, Measured, Part
from services.platform.capacity.plan import MAX_PEAK, MAX_RATE, Demand, plan
from services.platform.capacity.staffing import (
    knee_by_latency,
    servers_needed,
    square_root_staffing,
    wait_quantile_s,
)
from services.platform.settings import Settings

ONE = Part("one", "requests", Measured(500, 1_000, 2_000, "by hand", "today"), waits=True)
NUMBER = Capacity("requests", (ONE,))


def simulated_wait(rate, servers, service_s, count=60_000):
    """p95 wait of a queue with several servers, event by event."""
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    services = rng.exponential(service_s, count)
    free = np.zeros(servers)
    waits = np.empty(count)
    for n in range(count):
        first = int(free.argmin())
        begin = max(arrivals[n], free[first])
        waits[n] = begin - arrivals[n]
        free[first] = begin + services[n]
    return np.quantile(waits, 0.95)


@pytest.mark.parametrize(("rate", "servers"), [(800.0, 1), (3_500.0, 4)])
def test_the_wait_is_that_of_a_simulated_queue(rate, servers):
    predicted = wait_quantile_s(rate * 0.001, servers, 0.001)
    assert simulated_wait(rate, servers, 0.001) == pytest.approx(predicted, rel=0.2)


def test_headroom_grows_with_the_root_of_the_load():
    small, large = (square_root_staffing(load) - load for load in (10.0, 1_000.0))
    assert small < large <= 10 * small
    # Enough for a short wait: a tenth more would not have been.
    assert wait_quantile_s(1_000.0, 1_000 + int(large), 0.001) < 0.001
    assert servers_needed(1_000.0, 0.001, 0.0001) > 1_000


def test_remaining_zones_carry_the_peak():
    demand = Demand(4_000, 2.0, 50.0)
    [alone], [spare] = (plan(NUMBER, replace(demand, zones_lost=z)).rows for z in (0, 1))
    assert spare.provisioned % 3 == 0
    assert spare.provisioned * 2 // 3 >= spare.instances == alone.provisioned
    assert alone.cores >= 8 + math.sqrt(8)


def test_what_cannot_be_met_is_named_with_its_reason():
    few = replace(ONE, name="few", max_instances=2, bound="two shards")
    made = plan(Capacity("requests", (few,)), Demand(4_000))
    [reason] = made.unmet
    assert reason.startswith("few: ")
    assert "two shards" in reason
    assert made.first.startswith("few at 2,000")
    slow = replace(ONE, name="slow", floor_ms=60.0)
    [reason] = plan(Capacity("requests", (slow,)), Demand(10)).unmet
    assert "slow" in reason
    assert "60.0 ms" in reason
    assert plan(NUMBER, Demand(10)).unmet == []


@pytest.mark.parametrize(
    "demand",
    [
        *(Demand(rate) for rate in (0, -1, math.nan, math.inf, 1e300)),
        *(Demand(1, peak=peak) for peak in (0.5, math.nan, math.inf)),
        *(Demand(1, slo_ms=ms) for ms in (0, math.nan, math.inf)),
        Demand(1, zones_lost=2),
    ],
)
def test_a_demand_without_sense_is_refused(demand):
    with pytest.raises(ValueError, match=r"above 0|zones"):
        plan(NUMBER, demand)


def test_the_greatest_demand_is_planned():
    assert plan(NUMBER, Demand(MAX_RATE, MAX_PEAK)).rows


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_parts_name_processes_and_their_measurement(design):
    capacity = design.capacity(Settings())
    names = {process.name for process in design.everything} | {"nats", "redis", "seaweedfs"}
    assert {part.name for part in capacity.parts} <= names
    for part in capacity.parts:
        assert part.us.low <= part.us.mid <= part.us.high
        assert part.us.command
        assert part.us.date
        assert bool(part.max_instances) is bool(part.bound)


def test_disks_hold_what_the_retention_keeps():
    kept = {"fraud": fraud_retention.RETENTION_DAYS, "cv": cv_retention.RETENTION_DAYS}
    for design in DESIGNS:
        parts = [part for part in design.capacity(Settings()).parts if part.disk_bytes]
        assert {part.disk_days for part in parts} == {kept[design.name]}


def test_more_shards_carry_more():
    [fraud] = [design for design in DESIGNS if design.name == "fraud"]
    few, many = (fraud.capacity(Settings(shards=shards)) for shards in (16, 256))
    rows = [{row.part: row for row in plan(c, Demand(10_000)).rows} for c in (few, many)]
    assert rows[1]["nats"].breaks_at == pytest.approx(16 * rows[0]["nats"].breaks_at)


def test_the_command_plans_and_says_what_cannot_be_met():
    runner = CliRunner()
    met = runner.invoke(app, ["plan", "fraud", "--tps", "500", "--json"])
    assert met.exit_code == 0
    assert json.loads(met.stdout)["unmet"] == []
    wanted = ["plan", "fraud", "--tps", "50000", "--survive", "one-zone", "--json"]
    unmet = runner.invoke(app, wanted)
    assert unmet.exit_code == 1
    figures = json.loads(unmet.stdout)
    assert any(reason.startswith("lake-writer") for reason in figures["unmet"])
    assert len(figures["costs"]) == 2


def test_a_knee_is_predicted_for_each_queue():
    points = [Point(2_000, {"scorer": 2.0}, 100.0, 5.0), Point(4_000, {"scorer": 2.4}, 200.0, 6.0)]
    busy = [points[0], replace(points[1], cpu_s={"scorer": 3.6})]
    fast, slow = (predicted_knees("scorer", found, 50.0) for found in (points, busy))
    assert slow["scorer"] < fast["scorer"] < 1e6 / 600
    for point in points:
        name = f"latency at {point.rate:.0f}/s"
        assert slow[name] == fast[name] == knee_by_latency(point.rate, point.p95_ms, 50.0)
    assert marginal_us(*points) == {"scorer": pytest.approx(200.0)}
    with pytest.raises(ValueError, match="do not differ"):
        marginal_us(points[0], points[0])


def test_one_round_in_a_bad_minute_decides_nothing():
    good, bad = (
        Round({"scorer": us, "locust": us}, (5.0, 6.0), {"scorer": predicted}, predicted, measured)
        for us, predicted, measured in ((600.0, 900.0, 1_000.0), (900.0, 400.0, 1_200.0))
    )
    late = replace(good, us={"scorer": 700.0}, predicted_knee=1_000.0, measured_knee=300.0)
    found = medians([good, bad, late], 0.2)
    assert found.us == {"scorer": 700.0}
    assert (found.predicted_knee, found.measured_knee, found.ratio) == (900.0, 1_000.0, 0.9)
    unmeasured = medians([replace(good, measured_knee=None)], 0.2)
    assert unmeasured.measured_knee is unmeasured.ratio is None


def test_latency_below_the_knee_predicts_that_of_a_simulated_queue():
    rng = np.random.default_rng(5)

    def p95_ms(rate, count=200_000):
        arrivals = np.cumsum(rng.exponential(1 / rate, count))
        done = np.empty(count)
        free = 0.0
        for n, (arrived, service) in enumerate(
            zip(arrivals, rng.exponential(0.001, count), strict=True)
        ):
            free = done[n] = max(arrived, free) + service
        return 1e3 * np.quantile(done - arrivals, 0.95)

    assert knee_by_latency(300, p95_ms(300), 50.0) == pytest.approx(940, rel=0.05)
    assert p95_ms(940) == pytest.approx(50.0, rel=0.3)
