"""Quality: periods computed from decisions with outcomes, and alarms on a rising cost."""

import numpy as np
import pandas as pd
import pytest

from monitoring.quality import (
    BASELINE_PERIODS,
    CostMonitor,
    Outcomes,
    Period,
    periods,
    with_challenger,
)
from services.fraud.problem import CostModel

DAY = 86_400.0
BEGIN = 1.65e9 - 1.65e9 % DAY


def decisions(days, per_day=100, model="xgboost:1", seed=0):
    rng = np.random.default_rng(seed)
    count = days * per_day
    positive = rng.random(count) < 0.1
    score = np.where(positive, rng.uniform(0.3, 1, count), rng.uniform(0, 0.6, count))
    time = BEGIN + np.repeat(np.arange(days), per_day) * DAY + rng.uniform(0, DAY, count)
    return pd.DataFrame(
        {
            "decision_id": [f"{model}-{n}" for n in range(count)],
            "event_time": pd.to_datetime(time, unit="s", utc=True),
            "feed": "",
            "model": model,
            "role": "champion",
            "score": score,
            "stopped": score >= 0.5,
            "positive": positive,
            "amount": 10_000.0,
        }
    )


def test_a_period_is_what_its_decisions_cost():
    outcomes = decisions(3)
    # The last day is not over.
    found = periods(Outcomes(outcomes, {"": BEGIN + 2.9 * DAY}), CostModel(), DAY)
    assert [p.begin for p in found] == [BEGIN, BEGIN + DAY]
    first = outcomes[outcomes["event_time"] < pd.Timestamp(BEGIN + DAY, unit="s", tz="UTC")]
    missed = (first["positive"] & ~first["stopped"]).sum()
    alarms = (first["stopped"] & ~first["positive"]).sum()
    cost = missed * (100.0 + CostModel().fee / 100) + alarms * CostModel().opex / 100
    assert found[0].cost_per_hour_eur == pytest.approx(cost / 24)
    assert found[0].mean_cost_eur == pytest.approx(cost / len(first))
    hits = (first["positive"] & first["stopped"]).sum()
    assert found[0].precision == pytest.approx(hits / first["stopped"].sum())
    assert found[0].recall == pytest.approx(hits / first["positive"].sum())
    assert 0.5 < found[0].average_precision <= 1.0


def test_shares_of_nothing_are_not_defined():
    outcomes = decisions(1).assign(positive=False, stopped=False)
    [found] = periods(Outcomes(outcomes, {"": BEGIN + DAY}), CostModel(), DAY)
    assert np.isnan([found.precision, found.recall, found.average_precision]).all()
    assert (found.positives, found.mean_cost_eur) == (0, 0.0)


def test_the_challenger_stands_beside_the_champion():
    outcomes = decisions(2)
    scored = outcomes.sample(150, random_state=0)
    shadow = pd.DataFrame(
        {"decision_id": scored["decision_id"], "model": "gnn:2", "score": 1.0, "threshold": 0.9}
    )
    import pyarrow as pa

    both = with_challenger(outcomes, pa.Table.from_pandas(shadow), "decision_id")
    theirs = both[both["role"] == "challenger"]
    assert len(both) == len(outcomes) + 150
    assert theirs["stopped"].all()
    assert set(theirs["model"]) == {"gnn:2"}
    expected = scored.set_index("decision_id")["positive"].sort_index()
    assert theirs.set_index("decision_id")["positive"].sort_index().equals(expected)
    kinds = {
        (p.role, p.model): p
        for p in periods(Outcomes(both, {"": BEGIN + 2 * DAY}), CostModel(), DAY)
    }
    assert kinds["challenger", "gnn:2"].recall == 1.0
    assert kinds["challenger", "gnn:2"].seq(DAY) != kinds["champion", "xgboost:1"].seq(DAY)


def period(number, cost, model="xgboost:1", role="champion"):
    return Period(BEGIN + number * DAY, model, role, 100, 5, 0.5, 0.5, 0.5, 0.01, cost, cost)


def test_a_rising_cost_raises_an_alarm_at_a_fixed_period_and_a_steady_one_never():
    rng = np.random.default_rng(3)
    steady = CostMonitor()
    assert not any(steady.update(period(n, rng.lognormal(0, 0.2))) for n in range(200))
    rising = CostMonitor()
    costs = [*rng.lognormal(0, 0.2, BASELINE_PERIODS + 20), *(2.5 * rng.lognormal(0, 0.2, 20))]
    seen = [n for n, cost in enumerate(costs) if rising.update(period(n, cost))]
    assert seen[0] == BASELINE_PERIODS + 33


def test_a_new_champion_has_its_own_baseline_and_a_challenger_none():
    watch = CostMonitor()
    for n in range(BASELINE_PERIODS + 5):
        assert not watch.update(period(n, 1.0 + 0.1 * (n % 3)))
        assert not watch.update(period(n, 50.0, "gnn:2", "challenger"))
    assert not any(watch.update(period(n, 3.0 + 0.1 * (n % 3), "gnn:2")) for n in range(50))
