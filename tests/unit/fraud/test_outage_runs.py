"""Runs of the stack without Redis, taken together."""

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.evaluation.without_features.damage import extra_cost, undecided
from services.fraud.evaluation.without_features.stack import OutageRun, together
from services.fraud.problem import CostModel


def a_run(paid, with_features):
    return OutageRun(6_000, 6_000, 40, 0.3, 0.7, paid, with_features, paid / with_features, 50.0)


def test_runs_are_taken_together_by_their_money():
    assert together([a_run(90.0, 50.0), a_run(60.0, 70.0)]) == 150.0 / 120.0
    assert together([a_run(90.0, 50.0)]) == 1.8


def test_the_cost_of_a_fault_is_that_of_each_outcome_less_the_best_one():
    rng = np.random.default_rng(5)
    probability, amount = rng.random(200), rng.integers(100, 50_000, 200).astype(np.float64)
    done, slot = rng.integers(0, 3, 200), rng.choice([0.0, 40.0, np.inf], 200)
    found = extra_cost(probability, amount, done, CostModel(slot=slot))
    for i in range(200):
        costs = CostModel(slot=slot[i])
        expected = costs.expected(probability[i], amount[i])
        best = costs.outcome(probability[i], amount[i])
        assert found[i] == pytest.approx(expected[done[i]] - expected[best])
    without_analysts = extra_cost(probability, amount, done % 2, CostModel())
    assert without_analysts.min() == 0.0


def test_an_answered_payment_without_a_decision_is_lost_and_an_unanswered_one_is_not():
    events = pa.table({"transaction_id": ["a", "b", "c"], "outcome": ["approve", None, "decline"]})
    assert undecided(events, pa.table({"transaction_id": ["a", "x"]})) == 1
    assert undecided(events, pa.table({"transaction_id": pa.array([], pa.string())})) == 2
