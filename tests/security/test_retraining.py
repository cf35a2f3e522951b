"""Attacks that would have the machine retrain; each must fail."""

import orjson
import pytest

from services.platform.retraining import scheduler as scheduler_module
from services.platform.retraining.scheduler import Scheduler

HOUR = 3_600.0


@pytest.fixture
def nights(monkeypatch):
    """A function that sends an alert at a time, and says how many retrainings were queued."""
    scheduler, queued = Scheduler(["whiteboard"]), []
    monkeypatch.setattr(scheduler, "queue_retraining", queued.append)

    def alert(at_s: float, data: bytes = b"drift", design: str = "cv") -> int:
        monkeypatch.setattr(scheduler_module.time, "monotonic", lambda: at_s)
        scheduler.handle_alert(design, data)
        return queued.count(design)

    return alert


def test_alerts_retrain_once_an_hour_and_four_times_a_day(nights):
    by_hour = [nights(hour * HOUR) for hour in range(24)]
    assert by_hour[:5] == [1, 2, 3, 4, 4]
    assert by_hour[-1] == 4
    assert nights(23.5 * HOUR, design="fraud") == 1
    assert nights(24.5 * HOUR) == 5
    assert nights(24.6 * HOUR) == 5


def test_a_drift_of_one_source_retrains_nothing(nights):
    one = orjson.dumps({"said": "x" * 300, "dominated_by": "made-up/station-9"})
    assert nights(0.0, one) == 0
    assert nights(1.0, orjson.dumps({"said": "x" * 300, "dominated_by": ""})) == 1


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff", b"7"])
def test_what_is_no_alert_is_one_at_most(nights, data):
    assert [nights(at, data) for at in (0.0, 1.0, 2.0)] == [1, 1, 1]
