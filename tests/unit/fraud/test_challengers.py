"""Four real challengers of a real champion: one passes the gate, three are refused for different
reasons.
"""

from time import perf_counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.problem import LATENCY_BUDGET_MS, CostModel
from services.platform.models.candidates import Examples
from services.platform.models.onnx import OUTPUT, write_card
from services.platform.models.tabular import TabularModel
from services.platform.retraining.gate import Evidence, ModelResult, decide
from tests.conftest import card

pytestmark = pytest.mark.slow

LEAK = TABULAR.index("merchant_risk_7d")
TIMED_CALLS = 20


@pytest.fixture(scope="module")
def parts(simulated):
    """Fit on the first days, choose thresholds on the next, compare on the rest."""
    whole = simulated.examples
    a, b = int(len(whole) * 0.4), int(len(whole) * 0.55)

    def part(rows):
        return Examples(whole.vectors[rows], whole.positive[rows], whole.amount[rows])

    return part(slice(0, a)), part(slice(a, b)), part(slice(b, None))


def trained(parts, **parameters):
    fit, valid, _ = parts
    made = CANDIDATES.get("xgboost")({"eta": 0.3, **parameters}, TABULAR)
    made.fit(fit, valid, 0, lambda *_: None)
    threshold = CostModel().best_threshold(made.score(valid), valid.positive, valid.amount)
    return TabularModel(write_card(made.export(), card(threshold=threshold)), "fraud", FEATURES)


@pytest.fixture(scope="module")
def champion(parts):
    return trained(parts, rounds=4, max_depth=2)


def leaking(examples: Examples) -> Examples:
    """The result of a leaking join: a risk that includes the transaction's own chargeback."""
    vectors = examples.vectors.copy()
    vectors[:, LEAK] = np.where(examples.positive, 0.9, 0.02)
    return Examples(vectors, examples.positive, examples.amount)


def slowed(model: bytes, turns: int = 1) -> bytes:
    """The same scores, slowed by large matrix products that add zero."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    graph.node[-1].output[0] = "plain"
    size = 2_000
    fill = helper.make_tensor("fill", TensorProto.FLOAT, [1], [0.0])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [size, size])
    graph.initializer.append(shape)
    graph.node.append(helper.make_node("ReduceSum", ["plain"], ["seed"], keepdims=0))
    graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["block"], value=fill))
    graph.node.append(helper.make_node("Add", ["block", "seed"], ["turn0"]))
    for i in range(turns):
        graph.node.append(helper.make_node("MatMul", [f"turn{i}", "block"], [f"turn{i + 1}"]))
    graph.node.append(helper.make_node("ReduceSum", [f"turn{turns}"], ["nothing"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["plain", "nothing"], [OUTPUT]))
    return proto.SerializeToString()


def model_result(model: TabularModel, examples: Examples) -> ModelResult:
    vectors = np.full((len(examples), len(FEATURES)), np.nan)
    vectors[:, : len(TABULAR)] = examples.vectors
    seconds = []
    for row in range(TIMED_CALLS):
        begin = perf_counter()
        model.score(vectors[row : row + 1])
        seconds.append(perf_counter() - begin)
    return ModelResult(model.score(vectors).astype(float), model.card.threshold, np.array(seconds))


def gate_decision(champion, challenger, live):
    unit = np.arange(len(live)) % 5_000
    evidence = Evidence(
        model_result(champion, live),
        model_result(challenger, live),
        live.positive,
        live.amount,
        unit,
        0.005,
    )
    return decide(evidence, CostModel().costs, LATENCY_BUDGET_MS / 1e3)


def test_a_better_challenger_is_promoted(parts, champion):
    found = gate_decision(champion, trained(parts, rounds=80, max_depth=6), parts[2])
    assert found.promoted, found.reasons


def test_a_worse_challenger_is_refused_for_its_cost(parts, champion):
    found = gate_decision(champion, trained(parts, rounds=1, max_depth=1), parts[2])
    assert not found.promoted
    assert found.reasons[0].startswith("cost: +")


def test_a_leaky_challenger_excels_offline_and_is_refused_on_live_data(parts, champion):
    fit, valid, live = parts
    leaky = trained((leaking(fit), leaking(valid), live), rounds=60, max_depth=6)
    offline = leaking(valid)
    vectors = np.full((len(offline), len(FEATURES)), np.nan)
    vectors[:, : len(TABULAR)] = offline.vectors
    flagged = leaky.score(vectors) >= leaky.card.threshold
    assert (flagged == offline.positive).mean() > 0.9999
    found = gate_decision(champion, leaky, live)
    assert not found.promoted
    assert found.reasons[0].startswith("cost: +")


def test_a_slow_challenger_is_refused_for_its_latency(parts, champion):
    fit, valid, live = parts
    made = CANDIDATES.get("xgboost")({"eta": 0.3, "rounds": 80, "max_depth": 6}, TABULAR)
    made.fit(fit, valid, 0, lambda *_: None)
    threshold = CostModel().best_threshold(made.score(valid), valid.positive, valid.amount)
    data = write_card(slowed(made.export()), card(threshold=threshold))
    found = gate_decision(champion, TabularModel(data, "fraud", FEATURES), live)
    assert [r.split(":")[0] for r in found.reasons] == ["latency"]
