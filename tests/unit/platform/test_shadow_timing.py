"""How long a challenger is waited for, on a clock of the test's."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from services.platform.retraining import shadow_timing
from services.platform.retraining.shadow_timing import measure_shadow
from services.platform.retraining.spec import NoTraffic, ShadowTraffic


class World:
    """A stream of decisions and a challenger that begins to score at some time.

    Without inputs, shadow mode passes over the decisions until some time.
    """

    def __init__(self, rate, scores_from, passes_until=0.0):
        self.now, self.rate, self.scores_from = 0.0, rate, scores_from
        self.passes_until = passes_until

    async def progress(self, *_):
        handled = int(min(self.now, self.passes_until) * self.rate)
        return shadow_timing._Progress(int(self.now * self.rate), handled)

    def timings(self, *_):
        scored = max(self.now - self.scores_from, 0.0) * self.rate
        return np.full((int(scored), 2), 0.001)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def measured(monkeypatch):
    def measure(world):
        clock = SimpleNamespace(monotonic=lambda: world.now, sleep=world.sleep)
        monkeypatch.setattr(shadow_timing, "time", clock)
        monkeypatch.setattr(shadow_timing, "_progress", world.progress)
        monkeypatch.setattr(shadow_timing, "_shadow_seconds", world.timings)
        monkeypatch.setattr(shadow_timing, "_request_buckets", lambda *_: {})
        spec = SimpleNamespace(min_shadowed=100, design="fraud")
        step = nullcontext(lambda done, total: None)
        return measure_shadow(spec, None, 1, lambda _: step, ShadowTraffic())

    return measure


def test_a_slow_start_beside_much_traffic_is_waited_for(measured):
    found = measured(World(rate=1_000, scores_from=50.0))
    assert found.failure == ""
    assert len(found.challenger_s) >= 100


def test_one_that_scores_nothing_has_failed(measured):
    world = World(rate=1_000, scores_from=float("inf"))
    assert "scored none of" in measured(world).failure
    assert world.now < 70


def test_few_decisions_are_no_proof(measured):
    world = World(rate=2, scores_from=900.0)
    assert measured(world).failure == ""


def test_without_decisions_the_error_names_the_command(measured):
    with pytest.raises(NoTraffic, match="whiteboard simulate fraud"):
        measured(World(rate=0, scores_from=0.0))


def test_decisions_that_cannot_be_shadowed_are_not_the_challengers_fault(measured):
    world = World(rate=1_000, scores_from=float("inf"), passes_until=float("inf"))
    with pytest.raises(NoTraffic, match=r"their inputs are not kept.*simulate"):
        measured(world)


def test_one_that_scores_nothing_after_some_that_cannot_be_shadowed_has_failed(measured):
    world = World(rate=1_000, scores_from=float("inf"), passes_until=20.0)
    assert "scored none of" in measured(world).failure
