"""Metrics of a scorer, against hand-computed values."""

import numpy as np
import pytest

from services.fraud.problem import CostModel
from services.platform.evaluation.metrics import calibration_error, metrics
from services.platform.evaluation.plots import plots


def test_calibration_error_by_hand():
    score = np.array([0.1, 0.1, 0.9, 0.9])
    assert calibration_error(score, np.array([False, False, True, True])) == pytest.approx(0.1)
    assert calibration_error(score, np.array([True, True, False, False])) == pytest.approx(0.9)


def test_metrics_by_hand():
    score = np.array([0.9, 0.8, 0.3, 0.1])
    positive = np.array([True, False, True, False])
    computed = metrics(score, positive, np.full(4, 1_000.0), 0.5, CostModel(opex=5, fee=15))
    assert (computed["precision"], computed["recall"]) == (0.5, 0.5)
    assert computed["cost_one_threshold"] == 5 + 1_015
    # At an OPEX of 5, declining is cheaper wherever the score is above .005.
    assert (computed["cost"], computed["cost_approve_all"]) == (2 * 5, 2 * 1_015)


def test_the_three_plots_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    score = rng.random(500)
    positive = rng.random(500) < score
    drawn = plots(score, positive, np.full(500, 1_000.0), 0.5, CostModel())
    for name, figure in drawn.items():
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000
    assert len(drawn) == 3
