"""What a label stands for, where declined payments have none; and who weighs by it."""

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.candidates.fallback import platt
from services.fraud.ingestion.label_weights import DECIDED_BY, label_weights, with_decisions
from services.fraud.ingestion.tables import DECISION_SCHEMA
from services.fraud.problem import CostModel
from services.platform.evaluation.metrics import metrics
from services.platform.retraining.gate import Evidence, ModelResult, decide


def decided(control, propensity, feed=None):
    columns = {"control": pa.array(control, pa.bool_()), "propensity": pa.array(propensity, "f8")}
    return pa.table(columns if feed is None else {**columns, "feed": pa.array(feed, pa.string())})


def test_the_control_group_stands_for_what_was_declined():
    rows = decided([True, False, None, False, True], [0.02, 0.02, None, 1.0, 0.005])
    known = np.array([True, False, True, True, True])
    assert label_weights(rows, known) == pytest.approx([50.0, 1.0, 1.0, 1.0, 200.0])
    assert label_weights(rows.drop_columns(DECIDED_BY), known).tolist() == [1.0] * 5


def test_where_declined_payments_have_labels_each_stands_for_itself():
    """As in a replayed file; the simulator's feed beside it is weighted."""
    rows = decided([True, False, True, False], [0.1] * 4, ["file", "file", None, None])
    known = np.array([True, True, True, False])
    assert label_weights(rows, known) == pytest.approx([1.0, 1.0, 10.0, 1.0])


class Decisions:
    """A lake with two would-be declines."""

    def files(self, table, since=0.0, until=0.0):
        return ["lake/fraud/decisions/lake-000000000001-000000000002.parquet"]

    def read_files(self, files, columns, where, schema):
        made = {"transaction_id": ["b", "c"], "control": [True, False], "propensity": [0.02, 0.02],
                "seq": [1, 2]}  # fmt: skip
        assert schema is DECISION_SCHEMA
        return pa.table(made)


def test_transactions_take_it_from_their_decision():
    found = with_decisions(Decisions(), pa.table({"transaction_id": ["a", "b", "c"]}))
    assert found["control"].to_pylist() == [None, True, False]
    assert label_weights(found, np.array([True, True, False])) == pytest.approx([1.0, 50.0, 1.0])


def sample(rng, count=400):
    positive = rng.random(count) < 0.3
    score = np.where(positive, 0.7, 0.3) + 0.25 * rng.uniform(-1, 1, count)
    return score, positive, rng.lognormal(8, 0.5, count), rng.integers(1, 4, count)


def test_a_weight_of_three_is_the_row_three_times():
    score, positive, amount, times = sample(np.random.default_rng(0))
    weight, rows = times.astype(float), np.repeat(np.arange(len(times)), times)
    costs = CostModel()
    weighted = metrics(score, positive, amount, 0.5, costs, weight)
    assert weighted == pytest.approx(metrics(score[rows], positive[rows], amount[rows], 0.5, costs))
    assert costs.best_threshold(score, positive, amount, weight) == costs.best_threshold(
        score[rows], positive[rows], amount[rows]
    )
    odds = np.log(score / (1 - score))
    assert platt(odds, positive, weight=weight) == pytest.approx(platt(odds[rows], positive[rows]))


def test_the_gate_weighs_costs_and_calibration():
    score, positive, amount, times = sample(np.random.default_rng(1))
    weight, rows, unit = times.astype(float), np.repeat(np.arange(400), times), np.arange(400) // 4

    def figures(chosen, counted):
        champion, challenger = (
            ModelResult(one, 0.5, np.full(9, 1e-3))
            for one in (score[chosen], np.sqrt(score[chosen]))
        )
        evidence = Evidence(
            champion, challenger, positive[chosen], amount[chosen], unit[chosen], weight=counted
        )
        return decide(evidence, CostModel().costs, 0.05).figures

    weighted, repeated = figures(np.arange(400), weight), figures(rows, None)
    for figure in set(weighted) - {"decisions", "positives"}:
        assert weighted[figure] == pytest.approx(repeated[figure]), figure
