"""The gate: who may pass, and the reason each other is given."""

import numpy as np
import pytest

from services.fraud.problem import Kpi
from services.platform.retraining.gate import Evidence, Side, judge

N = 20_000


def seconds(ms):
    return np.full(600, ms / 1e3)


def world(seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(N) < 0.01
    amount = rng.lognormal(8, 0.5, N)
    unit = rng.integers(0, 600, N)
    return rng, positive, amount, unit


def scores(rng, positive, found, wrong=0.001):
    """A calibrated-looking score that finds a share of the frauds, and stops a few others."""
    hit = positive & (rng.random(N) < found)
    alarm = ~positive & (rng.random(N) < wrong)
    return np.where(hit, 0.95, np.where(alarm, 0.5, 0.002))


def judged(challenger, champion=None, ms=0.1, scorer_ms=5.0, seed=0, **changes):
    rng, positive, amount, unit = world(seed)
    held = scores(rng, positive, 0.5) if champion is None else champion(rng, positive)
    entered = challenger(rng, positive)
    evidence = Evidence(
        Side(held, 0.3, seconds(0.1)),
        Side(entered, changes.get("threshold", 0.3), seconds(ms)),
        positive, amount, unit, scorer_ms / 1e3,
    )  # fmt: skip
    return judge(evidence, Kpi().costs, 0.050)


def better(rng, positive):
    return scores(rng, positive, 0.8)


def test_a_better_one_is_promoted():
    verdict = judged(better)
    assert verdict.promoted
    assert verdict.figures["cost_difference_high"] < 0
    assert "saves" in verdict.reasons[0]


def test_a_worse_one_is_refused_for_its_cost():
    verdict = judged(lambda rng, positive: scores(rng, positive, 0.3))
    assert not verdict.promoted
    [reason] = verdict.reasons
    assert reason.startswith("cost: +")


def test_one_that_only_looks_better_by_chance_is_refused():
    """Equals are promoted in about 5 % of worlds: that is what the bound means."""
    promoted = sum(
        judged(lambda rng, positive: scores(rng, positive, 0.5), seed=s).promoted for s in range(60)
    )
    assert promoted <= 8


def test_a_slow_one_is_refused_for_its_latency():
    verdict = judged(better, ms=60.0)
    assert [r.split(":")[0] for r in verdict.reasons] == ["latency"]
    assert verdict.figures["projected_p95_ms"] == pytest.approx(64.9)


def test_where_no_request_came_the_calls_alone_say_how_slow_it_is():
    verdict = judged(better, ms=30.0, scorer_ms=0.0)
    assert verdict.figures["projected_p95_ms"] == pytest.approx(30.0)


def test_one_that_cries_wolf_in_its_scores_is_refused_for_its_calibration():
    """The same decisions, every score of a genuine transaction raised below the threshold."""
    verdict = judged(lambda rng, positive: np.maximum(better(rng, positive), 0.2))
    assert [r.split(":")[0] for r in verdict.reasons] == ["calibration"]


def test_all_that_is_wrong_is_said():
    verdict = judged(lambda rng, positive: np.full(N, 0.2), ms=90.0)
    assert [r.split(":")[0] for r in verdict.reasons] == ["cost", "latency", "calibration"]


def test_one_customers_luck_is_not_taken_for_many():
    """All that the challenger saves belongs to one customer: no ground to promote on."""
    _, positive, amount, unit = world()
    held = np.full(N, 0.002)
    entered = np.where(positive & (np.arange(N) % 2 == 0), 0.95, 0.002)
    one = np.where(positive, 0, unit + 1)
    sides = Side(held, 0.3, seconds(0.1)), Side(entered, 0.3, seconds(0.1))
    assert judge(Evidence(*sides, positive, amount, unit, 0.005), Kpi().costs, 0.05).promoted
    assert not judge(Evidence(*sides, positive, amount, one, 0.005), Kpi().costs, 0.05).promoted
