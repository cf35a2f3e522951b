"""Four real challengers against a real champion: one passes the gate, three are refused, each for
its own reason.
"""

from time import perf_counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import FEATURES, TABULAR
from services.fraud.problem import LATENCY_BUDGET_MS, Kpi
from services.platform.models.candidates import Examples
from services.platform.models.onnx import OUTPUT, Model, stamp
from services.platform.retraining.gate import Evidence, Side, judge
from tests.conftest import card

LEAK = TABULAR.index("merchant_risk_7d")
CALLS = 20


@pytest.fixture(scope="module")
def parts(world):
    """Fit on the first days, choose thresholds on the next, judge on the rest."""
    whole = world.examples
    a, b = int(len(whole) * 0.4), int(len(whole) * 0.55)

    def part(rows):
        return Examples(whole.vectors[rows], whole.positive[rows], whole.amount[rows])

    return part(slice(0, a)), part(slice(a, b)), part(slice(b, None))


def trained(parts, **parameters):
    fit, valid, _ = parts
    made = CANDIDATES.get("xgboost")({"eta": 0.3, **parameters}, TABULAR)
    made.fit(fit, valid, 0, lambda *_: None)
    threshold = Kpi().best_threshold(made.score(valid), valid.positive, valid.amount)
    return Model(stamp(made.export(), card(threshold=threshold)), "fraud", FEATURES)


@pytest.fixture(scope="module")
def champion(parts):
    return trained(parts, rounds=4, max_depth=2)


def leaking(examples: Examples) -> Examples:
    """What a careless join gives: a risk that already counts the transaction's own chargeback."""
    vectors = examples.vectors.copy()
    vectors[:, LEAK] = np.where(examples.positive, 0.9, 0.02)
    return Examples(vectors, examples.positive, examples.amount)


def slowed(model: bytes, turns: int = 1) -> bytes:
    """The same scores, after a detour through large products that add nothing."""
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


def side(model: Model, examples: Examples) -> Side:
    vectors = np.full((len(examples), len(FEATURES)), np.nan)
    vectors[:, : len(TABULAR)] = examples.vectors
    seconds = []
    for row in range(CALLS):
        begin = perf_counter()
        model.score(vectors[row : row + 1])
        seconds.append(perf_counter() - begin)
    return Side(model.score(vectors).astype(float), model.card.threshold, np.array(seconds))


def verdict(champion, challenger, live):
    unit = np.arange(len(live)) % 5_000
    evidence = Evidence(
        side(champion, live), side(challenger, live), live.positive, live.amount, unit, 0.005
    )
    return judge(evidence, Kpi().costs, LATENCY_BUDGET_MS / 1e3)


def test_a_better_challenger_is_promoted(parts, champion):
    found = verdict(champion, trained(parts, rounds=80, max_depth=6), parts[2])
    assert found.promoted, found.reasons


def test_a_worse_challenger_is_refused_for_its_cost(parts, champion):
    found = verdict(champion, trained(parts, rounds=1, max_depth=1), parts[2])
    assert not found.promoted
    assert found.reasons[0].startswith("cost: +")


def test_a_leaky_challenger_shines_offline_and_is_refused_live(parts, champion):
    fit, valid, live = parts
    leaky = trained((leaking(fit), leaking(valid), live), rounds=60, max_depth=6)
    offline = leaking(valid)
    vectors = np.full((len(offline), len(FEATURES)), np.nan)
    vectors[:, : len(TABULAR)] = offline.vectors
    flagged = leaky.score(vectors) >= leaky.card.threshold
    assert (flagged == offline.positive).mean() > 0.9999
    found = verdict(champion, leaky, live)
    assert not found.promoted
    assert found.reasons[0].startswith("cost: +")


def test_a_slow_challenger_is_refused_for_its_latency(parts, champion):
    fit, valid, live = parts
    made = CANDIDATES.get("xgboost")({"eta": 0.3, "rounds": 80, "max_depth": 6}, TABULAR)
    made.fit(fit, valid, 0, lambda *_: None)
    threshold = Kpi().best_threshold(made.score(valid), valid.positive, valid.amount)
    data = stamp(slowed(made.export()), card(threshold=threshold))
    found = verdict(champion, Model(data, "fraud", FEATURES), live)
    assert [r.split(":")[0] for r in found.reasons] == ["latency"]
