"""The drill: after a concept drift, nightly retraining reduces the cost again."""

import pytest

from services.cli.output import bar
from services.fraud.evaluation.drill import DRIFT_DAY, run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(660)]


def test_retraining_brings_the_cost_down_again():
    found = run("xgboost", 1.0, 0, bar)
    assert found.means["drifted"] > 1.3 * found.means["before"]
    assert found.means["retrained"] < 0.85 * found.means["unattended"]
    assert any(n.promoted and n.until > DRIFT_DAY for n in found.nights)
    assert any(n.until and not n.promoted for n in found.nights)
