"""Reasons: exact contributions, what is usual, the deletion test, the worker's reading."""

from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import xgboost as xgb

from services.fraud.candidates import CANDIDATES
from services.fraud.features.states import FEATURE_SET, FEATURES, TABULAR
from services.fraud.ingestion.events import MAX_ITEMS
from services.fraud.model import read_model
from services.fraud.reasons import worker
from services.fraud.reasons.explainer import (
    ATTACHMENT,
    Explainer,
    NotExplained,
    explainer_of,
    explanation_file,
    first_reasons,
)
from services.fraud.reasons.forest import Forest
from services.fraud.reasons.mix import COLUMN, WINDOW, ReasonMix
from services.fraud.reasons.report import make_report
from services.fraud.reasons.shapley import coalitions, shapley_values
from services.fraud.reasons.usual import usual_values
from services.fraud.reasons.worker import Explainers, ReasonsWorker, parse
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.models.attachments import attach, attachment
from services.platform.models.candidates import Examples
from services.platform.models.onnx import write_card
from services.platform.settings import Settings
from services.platform.streaming.consumer import Message
from tests.conftest import card


@pytest.fixture(scope="module")
def model(candidate, simulated):
    file = explanation_file(candidate, simulated.examples)
    return read_model(write_card(attach(candidate.export(), {ATTACHMENT: file}), card()))


@pytest.fixture(scope="module")
def deepsets(simulated):
    from services.fraud.features.request import cart_sets

    rows = np.arange(0, len(simulated.fraud), 4)
    sets = {"items": cart_sets(simulated.transactions.take(rows))}
    small = Examples(
        simulated.vectors[rows][:, : len(TABULAR)],
        simulated.fraud[rows],
        simulated.amount[rows],
        sets,
    )
    parameters = {"category_embedding": 4, "item_hidden": 8, "hidden": 16, "epochs": 1,
                  "batch": 1024, "rate": 0.01, "decay": 0.0}  # fmt: skip
    made = CANDIDATES.get("deepsets")(parameters, TABULAR)
    made.fit(small, small, 0, lambda *_: None)
    named = card(candidate="deepsets", sets={"items": ("category_bucket", "price")})
    file = attach(made.export(), {ATTACHMENT: explanation_file(made, small)})
    return read_model(write_card(file, named)), small


def highest(model, simulated, count):
    scores = model.score(simulated.vectors, {})
    return simulated.vectors[np.argsort(-scores)[:count]]


def test_contributions_are_those_of_xgboost(candidate, simulated):
    forest = Forest(**candidate.explanation())
    rows = simulated.vectors[:400, : len(TABULAR)]
    matrix = xgb.DMatrix(rows, feature_names=list(TABULAR))
    expected = candidate._booster.predict(matrix, pred_contribs=True)
    for row, wanted in zip(rows, expected, strict=True):
        found, base, margin = forest.contributions(row)
        np.testing.assert_allclose(found, wanted[:-1], atol=1e-4)
        assert base == pytest.approx(wanted[-1], abs=1e-4)
        assert base + found.sum() == pytest.approx(margin, abs=1e-9)


def test_they_add_up_to_the_log_odds_of_the_score(model, simulated):
    explainer = Explainer(model)
    for vector in simulated.vectors[::500]:
        found = explainer.explain(vector, {})
        assert found.gap < 1e-9
        score = float(model.score(vector[None], {})[0])
        assert 1 / (1 + np.exp(-found.log_odds)) == pytest.approx(score, abs=1e-6)
        assert found.note == ""


def test_shapley_values_are_exact_and_add_up():
    rng = np.random.default_rng(1)
    values = rng.normal(size=2**5)
    assert shapley_values(values).sum() == pytest.approx(values[-1] - values[0])
    linear = coalitions(4) @ np.array([1.0, -2.0, 0.5, 3.0])
    np.testing.assert_allclose(shapley_values(linear), [1.0, -2.0, 0.5, 3.0])


def test_reasons_turn_the_outcome_and_the_least_ones_do_not(model, simulated):
    explainer = Explainer(model)
    named, least = [], []
    for vector in highest(model, simulated, 60):
        found = explainer.explain(vector, {})
        groups = [reason.group for reason in found.reasons]
        assert 1 <= len(groups) <= 4
        assert all(reason.text for reason in found.reasons)
        last = sorted(found.contributions, key=found.contributions.get)[:1]
        named.append(explainer.score_without(vector, {}, groups) < model.card.threshold)
        least.append(explainer.score_without(vector, {}, last) < model.card.threshold)
    assert np.mean(named) >= 0.9
    assert np.mean(least) < np.mean(named)


def test_a_network_is_explained_with_the_items_of_its_cart(deepsets, simulated):
    model, small = deepsets
    explainer = Explainer(model)
    full = np.full((len(small), len(FEATURES)), np.nan)
    full[:, : len(TABULAR)] = small.vectors
    for row in range(0, 2_000, 100):
        items = small.sets["items"][row : row + 1]
        sets = {"items": items[:, : max(int((items[0, :, 0] >= 0).sum()), 1)]}
        found = explainer.explain(full[row], sets)
        assert set(found.contributions) >= {"cart", "transaction"}
        score = float(model.score(full[row : row + 1], sets)[0])
        assert found.base + sum(found.contributions.values()) == pytest.approx(
            np.log(score / (1 - score)), abs=1e-4
        )
        for reason in found.reasons:
            if reason.group == "cart":
                changes = [item.contribution for item in reason.items]
                assert len(changes) == sets["items"].shape[1]
                assert changes == sorted(changes, reverse=True)


def padded_to(length, items):
    """Sets (N, M, K) with padding up to a length."""
    out = np.zeros((len(items), length, items.shape[2]), dtype=np.float32)
    out[:, :, 0] = -1.0
    out[:, : items.shape[1]] = items
    return out


def record_shapes(model, monkeypatch):
    """The shapes of the items in each later call of the runtime."""
    shapes, run = [], model._session.run

    def recorded(names, inputs, options):
        shapes.append(inputs["items"].shape)
        return run(names, inputs, options)

    monkeypatch.setattr(model, "_session", SimpleNamespace(run=recorded))
    return shapes


def test_one_long_cart_costs_its_own_batch_alone(deepsets, monkeypatch):
    model, small = deepsets
    vectors = np.full((5_000, len(FEATURES)), np.nan)
    vectors[:, : len(TABULAR)] = small.vectors[:5_000]
    items = small.sets["items"][:5_000]
    usual = items.shape[1]
    long = padded_to(MAX_ITEMS, items)
    long[-1, :, 0] = 7.0
    rows = range(0, 5_000, 99)
    alone = [model.score(vectors[n : n + 1], {"items": long[n : n + 1]})[0] for n in rows]
    shapes = record_shapes(model, monkeypatch)
    score = model.score(vectors, {"items": long})
    assert np.abs(score[::99] - alone).max() < 1e-6
    assert sum(rows for rows, _, _ in shapes) == 5_000
    assert max(rows for rows, _, _ in shapes) <= 1_024
    assert max(length for _, length, _ in shapes[:-1]) <= usual
    assert shapes[-1][1] == MAX_ITEMS


def test_first_reasons_do_not_depend_on_the_longest_cart(deepsets, monkeypatch):
    model, small = deepsets
    long = {"items": padded_to(MAX_ITEMS, small.sets["items"])}
    padded = Examples(small.vectors, small.positive, small.amount, long)
    shapes = record_shapes(model, monkeypatch)
    found = first_reasons(model, padded)
    assert found == first_reasons(model, small)
    assert sum(found.values()) > 0
    assert max(length for _, length, _ in shapes) < MAX_ITEMS


def test_a_model_without_what_it_needs_is_named(onnx):
    model = read_model(onnx)
    with pytest.raises(NotExplained, match="xgboost:1 was trained before"):
        Explainer(model)
    assert explainer_of(model) is None


def test_attachments_survive_the_card_and_replace_each_other(candidate):
    once = attach(candidate.export(), {"a": b"1", "b": b"\x00\xff"})
    model = read_model(write_card(attach(once, {"a": b"2"}), card()))
    assert attachment(model.metadata, "a") == b"2"
    assert attachment(model.metadata, "b") == b"\x00\xff"
    with pytest.raises(ValueError, match="unreadable attachment 'a'"):
        attachment({"whiteboard.a": "?"}, "a")


def test_usual_is_the_customers_own_where_there_is_a_habit():
    features = ("amount", "customer_mean_amount_30d", "customer_transactions_30d",
                "customer_transactions_1d", "device_risk_7d")  # fmt: skip
    medians = np.array([20.0, 21.0, 9.0, 1.0, 0.0])
    own = usual_values(features, np.array([900.0, 50.0, 60.0, 8.0, 0.5]), medians)
    assert own.values.tolist() == [50.0, 50.0, 60.0, 2.0, 0.0]
    assert own.own.tolist() == [True, True, True, True, False]
    fresh = usual_values(features, np.array([900.0, np.nan, 0.0, 0.0, 0.5]), medians)
    assert fresh.values.tolist() == medians.tolist()
    assert not fresh.own.any()


def declined(at="2022-05-01T00:00:00Z"):
    return {"transaction": {"event_time": at}, "model": "xgboost:1"}


def test_the_mix_is_far_only_where_it_changed(model, simulated):
    reference = first_reasons(model, simulated.examples)
    assert sum(reference.values()) > 0
    same, other = ReasonMix(), ReasonMix()
    for n in range(1, WINDOW + 1):
        same.add(n, declined(), "a" if n % 2 else "b", {"a": 50.0, "b": 50.0})
        other.add(n, declined(), "c", {"a": 50.0, "b": 50.0})
    assert same.closed[0]["psi"] == [pytest.approx(0.0)]
    assert same.closed[0]["alarms"] == []
    assert other.closed[0]["psi"][0] > 1.0
    assert other.closed[0]["alarms"] == [f"psi:{COLUMN}"]


def test_a_window_of_the_mix_counts_each_decline_once():
    mix = ReasonMix()
    for seq in range(1, WINDOW):
        mix.add(seq, declined(), "a", {"a": 1.0})
        mix.add(seq, declined(), "a", {"a": 1.0})  # its batch came again
    mix.add(WINDOW, declined(), "a", {})  # of a model that knows no mix
    assert not mix.closed
    mix.add(WINDOW, declined(), "a", {"a": 1.0})
    mix.add(WINDOW + 1, declined("2022-05-02T00:00:00Z"), "a", {"a": 1.0})
    [row] = mix.closed
    assert (row["seq"], row["rows"], row["columns"]) == (WINDOW, WINDOW, [COLUMN])


def test_a_window_of_the_mix_is_of_one_model():
    mix = ReasonMix()
    for seq in range(1, WINDOW):
        mix.add(seq, declined(), "a", {"a": 1.0})
    rolled_back = {**declined("2022-05-02T00:00:00Z"), "model": "another:1"}
    for seq in range(WINDOW, 2 * WINDOW):
        assert not mix.closed
        mix.add(seq, rolled_back, "b", {"b": 1.0})
    [row] = mix.closed
    assert (row["model"], row["rows"], row["alarms"]) == ("another:1", WINDOW, [])
    assert row["event_time"].day == 2


def message(data):
    return Message("fraud.decision.1", data, 1, 0, "")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"decision": "approve"}',
                                  b'{"decision": "decline"}'])  # fmt: skip
def test_what_is_no_decline_is_passed_over(data):
    assert parse(message(data)) is None


def test_a_model_that_does_not_explain_itself_is_read_once(candidate, tmp_path, monkeypatch):
    config, files = Settings(home=tmp_path, model_file=tmp_path / "model.onnx"), []
    config.model_file.write_bytes(write_card(candidate.export(), card()))

    def counted(data):
        files.append(data)
        return read_model(data)

    monkeypatch.setattr(worker, "read_model", counted)
    explainers, reads = Explainers(config), []
    for _ in range(3):
        with pytest.raises(NotExplained, match="whiteboard retrain"):
            explainers.of(card().label)
        reads.append(len(files))
    assert reads[0] == reads[-1] > 0


def test_the_mix_counts_what_the_model_would_decline_without_analysts(
    model, simulated, tmp_path, monkeypatch
):
    added = []
    monkeypatch.setattr(ReasonMix, "add", lambda self, *counted: added.append(counted))
    config = Settings(home=tmp_path)
    explainers = Explainers(config)
    monkeypatch.setattr(explainers, "of", lambda label: Explainer(model))
    reasons = ReasonsWorker(explainers, None, None, None, None)
    [vector] = highest(model, simulated, 1)
    event = {
        "degraded": False, "feature_set": FEATURE_SET.hash, "model": model.card.label,
        "features": vector.tolist(), "seqs": {},
        "transaction": {**EXAMPLE_TRANSACTION, "channel": "of a later version"},
    }  # fmt: skip
    for seq, (decision, score) in enumerate(
        [("review", 0.9), ("decline", 0.9), ("review", 0.01), ("decline", 0.0)]
    ):
        report = reasons._report(seq, {**event, "decision": decision, "score": score})
        assert report["reasons"]
    reasons._report(9, {**event, "decision": "decline", "score": 0.9, "synthetic": True})
    assert [seq for seq, *_ in added] == [0, 1]


def test_a_report_keeps_fields_that_others_add():
    event = {"decision_id": "d", "decision": "decline", "features": [1.0], "seqs": {"ip_state": 3},
             "rules": "3:0a1b2c3d", "fired": ["r7"], "price": 2.5}  # fmt: skip
    report = make_report(event, None, "why not")
    assert (report["rules"], report["fired"]) == ("3:0a1b2c3d", ["r7"])
    assert report["price"] == 2.5
    assert report["versions"] == {"ip_state": 3}
    assert report["note"] == "why not"
    assert orjson.loads(orjson.dumps(report)) == report
