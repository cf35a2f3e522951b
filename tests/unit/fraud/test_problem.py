"""The cost model and the threshold that minimises the cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fraud.problem import DECLINE, CostModel


def test_costs_by_hand():
    cost_model = CostModel(opex=5, fee=15)
    declined = np.array([True, True, False, False])
    fraud = np.array([True, False, True, False])
    costs = cost_model.costs(declined, fraud, np.array([100.0, 100.0, 100.0, 100.0]))
    assert costs.tolist() == [0, 5, 115, 0]


cases = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans(), st.integers(1, 10_000)),
    min_size=1,
    max_size=30,
)


@given(cases)
def test_no_threshold_is_cheaper(drawn):
    score = np.array([d[0] for d in drawn])
    fraud = np.array([d[1] for d in drawn])
    amount = np.array([float(d[2]) for d in drawn])
    cost_model = CostModel()
    best = cost_model.best_threshold(score, fraud, amount)
    found = cost_model.total(score >= best, fraud, amount)
    for other in (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        assert found <= cost_model.total(score >= other, fraud, amount)


def test_each_threshold_has_the_cost_of_its_decisions():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 20, 300) / 20
    fraud = rng.random(300) < score
    amount = rng.uniform(100, 9_000, 300)
    for threshold, cost in zip(*CostModel().by_threshold(score, fraud, amount), strict=True):
        assert cost == pytest.approx(CostModel().total(score >= threshold, fraud, amount))


def test_a_probability_that_is_no_number_declines():
    for costs in (CostModel(), CostModel(slot=0)):
        assert costs.outcome(float("nan"), 5_000) == DECLINE
        assert costs.outcomes(np.array([np.nan]), 0.0, np.array([5_000.0])).tolist() == [DECLINE]


def test_a_threshold_needs_examples():
    with pytest.raises(ValueError, match="nothing to choose"):
        CostModel().best_threshold(np.array([]), np.array([], bool), np.array([]))
