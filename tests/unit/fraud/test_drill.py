"""The drill's reckoning. The drill itself takes minutes: `make test-e2e`."""

import pytest

from services.fraud.evaluation.drill import DAYS, DRIFT_DAY, Drill, Night, _means, plot


@pytest.fixture
def drill():
    days = list(range(44, DAYS))
    answered = DRIFT_DAY + 21
    nights = [
        Night(DRIFT_DAY + 3, True, ["saves 1"], 1.0, DRIFT_DAY - 14),
        Night(DRIFT_DAY + 18, False, ["cost: +3"], -3.0, DRIFT_DAY + 1),
        Night(answered, True, ["saves 2"], 2.0, DRIFT_DAY + 4),
    ]
    alone = [100.0 if day < DRIFT_DAY else 300.0 for day in days]
    paid = [120.0 if day >= answered else cost for day, cost in zip(days, alone, strict=True)]
    return Drill("xgboost", 1.0, DRIFT_DAY, days, paid, alone, nights)


def test_only_a_champion_that_saw_the_drift_answers_it(drill):
    means = dict(_means(drill))
    assert means == {"before": 100.0, "drifted": 300.0, "retrained": 120.0, "unattended": 300.0}


def test_where_nothing_was_promoted_nothing_is_claimed(drill):
    refused = [night for night in drill.nights if not night.promoted]
    means = dict(_means(Drill(**{**drill.__dict__, "nights": refused, "paid": drill.unattended})))
    assert means == {"before": 100.0, "drifted": 300.0}


def test_a_picture_is_kept(drill, tmp_path):
    plot(drill, tmp_path / "deep" / "drill.png")
    assert (tmp_path / "deep" / "drill.png").stat().st_size > 10_000
