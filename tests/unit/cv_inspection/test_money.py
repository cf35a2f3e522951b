"""Money of the line: the costs choose the threshold."""

from dataclasses import replace

import numpy as np
import pytest

from services.cv_inspection.evaluation.money import decide
from services.cv_inspection.problem import CostModel
from services.platform.evaluation.what_if import Labelled, LoggedDecisions, curves


def logged(labelled):
    rng = np.random.default_rng(5)
    score = rng.beta(0.3, 3, 500)
    positive = rng.random(500) < score
    of = {"champion": Labelled("efficientnet:1", score, positive, np.zeros(500))}
    zeros, none = np.zeros(500), np.full(500, np.inf)
    return LoggedDecisions(score, zeros, zeros, none, 1.0, of if labelled else {})


def test_dear_escapes_stop_more_parts():
    rows = logged(labelled=True)
    stopped = [
        int(decide(rows, {"reinspection": 1.5, "escape": escape}).outcome.sum())
        for escape in (2.0, 60.0, 500.0)
    ]
    assert stopped == sorted(stopped)
    assert stopped[0] < stopped[-1]


def test_the_threshold_is_the_best_of_all_on_labelled_parts():
    rows = logged(labelled=True)
    of = rows.labelled["champion"]
    found = decide(rows, {"reinspection": 1.5, "escape": 60.0})
    costs = [found.costs.total(of.score >= t, of.positive, of.amount) for t in of.score]
    assert found.costs.total(found.outcome, of.positive, of.amount) <= min(costs)


def test_without_labels_the_threshold_is_where_both_cost_the_same():
    rows = logged(labelled=False)
    found = decide(rows, {"reinspection": 10.0, "escape": 30.0})
    assert np.array_equal(found.outcome == 1, rows.score >= 0.25)
    assert found.expected_eur(found.outcome) <= found.expected_eur(np.zeros(500, dtype=int))


def test_a_weight_is_as_good_as_repeated_rows():
    of = logged(labelled=True).labelled["champion"]
    times = np.random.default_rng(1).integers(0, 4, len(of))
    weighed = replace(of, weight=times.astype(float))
    rows = np.repeat(np.arange(len(of)), times)
    several = Labelled(of.model, of.score[rows], of.positive[rows], of.amount[rows])
    one, other = (curves(found, CostModel()) for found in (weighed, several))
    assert min(cost for _, cost in one.cost) == pytest.approx(min(cost for _, cost in other.cost))
    assert np.allclose(one.calibration, other.calibration)
    assert one.precision_recall[-1] == pytest.approx(other.precision_recall[-1])
