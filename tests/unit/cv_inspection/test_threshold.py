"""The threshold of inspection: from a calibrated score and the costs."""

import warnings

import numpy as np
import pytest
from scipy.special import expit

from services.cv_inspection.problem import ESCAPE_COST_MINOR, CostModel
from services.cv_inspection.retraining.threshold import choose_threshold


def _parts(count: int, seed: int):
    """Parts of the line: one in ten with a defect, and scores that overlap."""
    rng = np.random.default_rng(seed)
    defect = rng.random(count) < 0.1
    odds = rng.normal(np.where(defect, 1.0, -6.0), np.where(defect, 3.0, 1.5))
    return expit(odds), defect, np.full(count, float(ESCAPE_COST_MINOR))


def test_it_costs_less_on_other_parts_than_the_cheapest_on_these():
    costs, others = CostModel(), _parts(200_000, 0)
    spent = []
    for seed in range(1, 41):
        few = _parts(900, seed)
        chosen = choose_threshold(*few), costs.best_threshold(*few)
        spent.append([costs.total(others[0] >= at, *others[1:]) for at in chosen])
    calibrated, cheapest = np.mean(spent, axis=0)
    least = costs.total(others[0] >= costs.best_threshold(*others), *others[1:])
    assert calibrated < cheapest
    assert calibrated < 1.1 * least


def test_a_calibrated_score_is_stopped_where_both_outcomes_cost_the_same():
    rng = np.random.default_rng(3)
    score = rng.uniform(0.001, 0.999, 200_000)
    defect = rng.random(len(score)) < score
    found = choose_threshold(score, defect, np.full(len(score), float(ESCAPE_COST_MINOR)))
    costs = CostModel()
    assert found == pytest.approx(costs.opex / (costs.opex + ESCAPE_COST_MINOR), rel=0.1)


def test_a_weight_counts_as_repeated_parts():
    score, defect, escape = _parts(900, 5)
    weight = np.random.default_rng(5).integers(1, 4, len(score))
    rows = np.repeat(np.arange(len(score)), weight)
    assert choose_threshold(score, defect, escape, weight.astype(float)) == pytest.approx(
        choose_threshold(score[rows], defect[rows], escape[rows]), rel=1e-3
    )


def test_separable_scores_have_a_threshold_between_them():
    score = np.array([0.0, 0.01, 0.02, 0.9, 1.0])
    defect = np.array([False, False, False, True, True])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0.02 < choose_threshold(score, defect, np.full(5, 6_000.0)) <= 0.9


def test_without_defects_a_share_of_the_good_parts_is_stopped():
    score = np.linspace(0.0, 1.0, 1_001)
    found = choose_threshold(score, np.zeros(1_001, bool), np.full(1_001, 6_000.0))
    assert (score >= found).mean() == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize("defect", [np.ones(4, bool), np.array([True, True, False, False])])
def test_where_the_score_says_nothing_of_defects_it_is_the_cheapest_on_these_parts(defect):
    score = np.array([0.1, 0.2, 0.3, 0.4])
    escape = np.full(4, 6_000.0)
    assert choose_threshold(score, defect, escape) == CostModel().best_threshold(
        score, defect, escape
    )


def test_no_parts_are_an_error():
    with pytest.raises(ValueError, match="nothing to choose a threshold on"):
        choose_threshold(np.zeros(0), np.zeros(0, bool), np.zeros(0))


def test_defects_that_do_not_count_do_not_make_a_threshold_that_stops_nothing():
    """All are parts that customers sent back and that were not audited."""
    score = np.append(np.linspace(0.0, 0.2, 100), 0.01)
    defect = np.append(np.zeros(100, dtype=bool), True)
    weight = np.append(np.ones(100), 0.0)
    escape = np.full(101, 6_000.0)
    assert choose_threshold(score, defect, escape, weight) == choose_threshold(
        score[:100], defect[:100], escape[:100]
    )
    with pytest.raises(ValueError, match="none that counts"):
        choose_threshold(score, defect, escape, np.zeros(101))
