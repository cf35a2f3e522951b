"""Runs of the stack without Redis, taken together."""

from services.fraud.evaluation.without_features.stack import OutageRun, together


def a_run(paid, with_features):
    return OutageRun(6_000, 6_000, 40, 0.3, 0.7, paid, with_features, paid / with_features, 50.0)


def test_runs_are_taken_together_by_their_money():
    assert together([a_run(90.0, 50.0), a_run(60.0, 70.0)]) == 150.0 / 120.0
    assert together([a_run(90.0, 50.0)]) == 1.8
