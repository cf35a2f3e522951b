"""Money: arrays decide as the scorer does, one payment after the other."""

import numpy as np
import pytest
from pydantic import ValidationError

from services.fraud.evaluation.money import MONEY, decide
from services.fraud.problem import OUTCOMES, CostModel
from services.platform.evaluation.what_if import Labelled, LoggedDecisions, calibration, curves

SLOTS = (np.inf, 0.0, 40.0, np.nan)
COSTS = {"opex": 8.0, "fee": 25.0, "analyst_minute": 1.0, "analyst_minutes": 4.0,
         "missed": 0.2, "wrongly_stopped": 0.0}  # fmt: skip


def logged(count=600, seed=3):
    rng = np.random.default_rng(seed)
    score = rng.beta(0.3, 3, count)
    positive = rng.random(count) < score
    amount = rng.lognormal(8, 1, count).round()
    slot = rng.choice(SLOTS, count)
    champion = Labelled("xgboost:1", score, positive, amount)
    return LoggedDecisions(score, np.full(count, 0.2), amount, slot, 2.0, {"champion": champion})


def one_by_one(rows, costs):
    for score, amount, slot in zip(rows.score, rows.amount, rows.slot, strict=True):
        if np.isnan(slot):
            yield int(score >= 0.2)
        else:
            model = CostModel(
                round(costs["opex"] * 100), round(costs["fee"] * 100),
                round(costs["analyst_minute"] * 100), costs["analyst_minutes"], costs["missed"],
                costs["wrongly_stopped"], slot,
            )  # fmt: skip
            yield model.outcome(score, amount)


def test_arrays_decide_as_brute_force():
    rows = logged()
    found = decide(rows, COSTS)
    outcomes = list(one_by_one(rows, COSTS))
    assert found.outcome.tolist() == outcomes
    assert set(outcomes) == set(range(len(OUTCOMES)))
    model = found.costs
    brute = sum(
        model.expected(score, amount)[code]
        for score, amount, code in zip(rows.score, rows.amount, outcomes, strict=True)
    )
    assert found.expected_eur(found.outcome) == pytest.approx(brute / 100)


def test_no_other_outcomes_cost_less_where_slots_are_free():
    rows = logged()
    rows.slot[:] = 0.0
    found = decide(rows, COSTS)
    best = found.expected_eur(found.outcome)
    for code in range(len(OUTCOMES)):
        assert best <= found.expected_eur(np.full(len(rows), code))


def test_costs_that_cannot_be_are_refused():
    with pytest.raises(ValidationError):
        decide(logged(), {**COSTS, "missed": 2.0})
    assert {one.name for one in MONEY.sliders} == set(COSTS)


def test_curves_are_those_of_brute_force():
    of = logged().labelled["champion"]
    found = curves(of, CostModel())
    for threshold, eur in found.cost:
        stopped = of.score >= threshold
        assert eur == pytest.approx(
            CostModel().total(stopped, of.positive, of.amount) / 100 / len(of)
        )
    recalls = [recall for recall, _ in found.precision_recall]
    assert recalls == sorted(recalls)
    assert found.precision_recall[-1] == (1.0, pytest.approx(of.positive.mean()))
    # Labels were drawn by their scores, so bins with many decisions lie near the diagonal.
    mean, share = calibration(of.score, of.positive)[0]
    assert share == pytest.approx(mean, abs=0.05)
