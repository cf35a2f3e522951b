"""The gate: which challengers are promoted, and the reason each other one is refused."""

import re

import numpy as np
import pytest

from services.fraud.problem import CostModel
from services.platform.retraining.gate import Evidence, ModelResult, decide

N = 20_000


def seconds(ms):
    return np.full(600, ms / 1e3)


def dataset(seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(N) < 0.01
    amount = rng.lognormal(8, 0.5, N)
    unit = rng.integers(0, 600, N)
    return rng, positive, amount, unit


def scores(rng, positive, recall, false_alarms=0.001):
    """A roughly calibrated score with a given recall and rate of false alarms."""
    hit = positive & (rng.random(N) < recall)
    alarm = ~positive & (rng.random(N) < false_alarms)
    return np.where(hit, 0.95, np.where(alarm, 0.5, 0.002))


def decision(challenger, champion=None, ms=0.1, scorer_ms=5.0, seed=0, **changes):
    rng, positive, amount, unit = dataset(seed)
    champion_scores = scores(rng, positive, 0.5) if champion is None else champion(rng, positive)
    challenger_scores = challenger(rng, positive)
    evidence = Evidence(
        ModelResult(champion_scores, 0.3, seconds(0.1)),
        ModelResult(challenger_scores, changes.get("threshold", 0.3), seconds(ms)),
        positive, amount, unit, scorer_ms / 1e3,
    )  # fmt: skip
    return decide(evidence, CostModel().costs, 0.050)


def better(rng, positive):
    return scores(rng, positive, 0.8)


def test_a_better_challenger_is_promoted():
    result = decision(better)
    assert result.promoted
    assert result.figures["cost_difference_high"] < 0
    assert re.fullmatch(r"saves [\d,]+ EUR on [\d,]+ decisions", result.reasons[0])


def test_a_worse_challenger_is_refused_for_its_cost():
    result = decision(lambda rng, positive: scores(rng, positive, 0.3))
    assert not result.promoted
    [reason] = result.reasons
    assert re.match(r"cost: \+[\d,]+ EUR against the champion's [\d,]+ EUR; ", reason)


def test_a_challenger_that_is_better_by_chance_is_refused():
    """Of equal challengers about 5 % are promoted: the meaning of the bound."""
    promoted = sum(
        decision(lambda rng, positive: scores(rng, positive, 0.5), seed=s).promoted
        for s in range(60)
    )
    assert promoted <= 8


def test_a_slow_challenger_is_refused_for_its_latency():
    result = decision(better, ms=60.0)
    assert [r.split(":")[0] for r in result.reasons] == ["latency"]
    assert result.figures["projected_p95_ms"] == pytest.approx(64.9)


def test_without_requests_latency_is_that_of_the_calls():
    result = decision(better, ms=30.0, scorer_ms=0.0)
    assert result.figures["projected_p95_ms"] == pytest.approx(30.0)


def test_a_miscalibrated_challenger_is_refused():
    """The same decisions; scores of genuine transactions are raised, below the threshold."""
    result = decision(lambda rng, positive: np.maximum(better(rng, positive), 0.2))
    assert [r.split(":")[0] for r in result.reasons] == ["calibration"]


def test_a_refusal_gives_all_reasons():
    result = decision(lambda rng, positive: np.full(N, 0.2), ms=90.0)
    assert [r.split(":")[0] for r in result.reasons] == ["cost", "latency", "calibration"]


def test_a_saving_on_one_customer_is_no_evidence():
    """The whole saving belongs to one customer, so the bootstrap over customers refuses."""
    _, positive, amount, unit = dataset()
    champion_scores = np.full(N, 0.002)
    challenger_scores = np.where(positive & (np.arange(N) % 2 == 0), 0.95, 0.002)
    one_customer = np.where(positive, 0, unit + 1)
    models = [ModelResult(s, 0.3, seconds(0.1)) for s in (champion_scores, challenger_scores)]
    assert decide(
        Evidence(*models, positive, amount, unit, 0.005), CostModel().costs, 0.05
    ).promoted
    assert not decide(
        Evidence(*models, positive, amount, one_customer, 0.005), CostModel().costs, 0.05
    ).promoted
