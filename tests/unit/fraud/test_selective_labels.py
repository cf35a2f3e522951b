"""The control group, and what is estimated from it."""

from types import SimpleNamespace

import numpy as np
import pytest

from services.fraud.evaluation.selective_labels.drill import Arm, decide_day
from services.fraud.evaluation.selective_labels.estimate import genuine_declined
from services.fraud.problem import CostModel
from services.fraud.review.control import draw, propensity


def test_the_draw_is_uniform_and_repeats():
    draws = np.array([draw(f"t{number}") for number in range(4_000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.02)
    assert np.histogram(draws, 4, (0, 1))[0].min() > 900
    assert draw("t7") == draws[7]


def test_the_interval_covers_the_truth_on_nine_days_of_ten():
    random = np.random.default_rng(0)
    covered, values, truths = [], [], []
    for _ in range(300):
        amount = random.lognormal(9, 1, 150)
        genuine = random.random(150) < 0.4
        chance = propensity(amount, 0.05)
        control = random.random(150) < chance
        found = genuine_declined(int((~control).sum()), 1 / chance[control], genuine[control])
        truth = int(genuine[~control].sum())
        covered.append(found.covers(truth))
        values.append(found.value)
        truths.append(truth)
    assert np.mean(covered) >= 0.9
    assert np.mean(values) == pytest.approx(np.mean(truths), rel=0.1)


class Half:
    """Scores .99 for every second transaction."""

    def score(self, examples):
        return np.where(np.arange(len(examples)) % 2, 0.99, 0.0)


def day(count=200):
    fraud = np.arange(count) % 4 == 1
    amount = np.full(count, 5_000.0)
    return SimpleNamespace(vectors=np.zeros((count, 1)), fraud=fraud, amount=amount)


def test_a_declined_transaction_has_no_label_but_in_the_control_group():
    data, arm = day(), Arm()
    drawn = np.linspace(0, 1, 200, endpoint=False)
    observed = decide_day(arm, Half(), data, np.arange(200), drawn, 0.1)
    would_decline = np.arange(200) % 2 == 1
    control = would_decline & (drawn < 0.1)
    assert (observed[~would_decline] == 1.0).all()
    assert (observed[control] == 0.1).all()
    assert (observed[would_decline & ~control] == 0.0).all()
    assert arm.controls == [int(control.sum())]
    assert arm.declined == [int((would_decline & ~control).sum())]
    chargebacks = (control & data.fraud).sum() * (5_000 + CostModel().fee)
    saved = (control & ~data.fraud).sum() * CostModel().opex
    assert arm.control_cost[0] == pytest.approx((chargebacks - saved) / 100)
    assert arm.estimate[0].covers(arm.true_cost[0])


def test_without_a_control_group_only_the_models_belief_is_known():
    data, arm = day(), Arm()
    observed = decide_day(arm, Half(), data, np.arange(200), np.zeros(200), 0.0)
    assert set(observed.tolist()) == {0.0, 1.0}
    assert not arm.estimate[0].covers(arm.true_cost[0])
