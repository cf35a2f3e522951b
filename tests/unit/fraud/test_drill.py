"""The drill's figures. The drill itself takes minutes: `make test-e2e`."""

import pytest

from services.fraud.evaluation.drill import DAYS, DRIFT_DAY, Drill, RetrainingRound, _means, plot


@pytest.fixture
def drill():
    days = list(range(44, DAYS))
    responded = DRIFT_DAY + 21
    nights = [
        RetrainingRound(DRIFT_DAY + 3, True, ["saves 1"], 1.0, DRIFT_DAY - 14),
        RetrainingRound(DRIFT_DAY + 18, False, ["cost: +3"], -3.0, DRIFT_DAY + 1),
        RetrainingRound(responded, True, ["saves 2"], 2.0, DRIFT_DAY + 4),
    ]
    unattended = [100.0 if day < DRIFT_DAY else 300.0 for day in days]
    paid = [120.0 if day >= responded else cost for day, cost in zip(days, unattended, strict=True)]
    return Drill("xgboost", 1.0, DRIFT_DAY, days, paid, unattended, nights)


def test_the_drift_phase_ends_with_a_champion_trained_on_drifted_days(drill):
    means = dict(_means(drill))
    assert means == {"before": 100.0, "drifted": 300.0, "retrained": 120.0, "unattended": 300.0}


def test_without_a_promotion_there_are_no_means_after_it(drill):
    refused = [night for night in drill.nights if not night.promoted]
    means = dict(_means(Drill(**{**drill.__dict__, "nights": refused, "paid": drill.unattended})))
    assert means == {"before": 100.0, "drifted": 300.0}


def test_the_plot_is_written(drill, tmp_path):
    plot(drill, tmp_path / "deep" / "drill.png")
    assert (tmp_path / "deep" / "drill.png").stat().st_size > 10_000
