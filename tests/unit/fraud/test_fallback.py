"""The fallback: what decides without the online store."""

from types import SimpleNamespace

import numpy as np
import pytest

from features.aggregation import identify
from services.fraud.candidates.fallback import Fallback, columns_of_states, lose_rows
from services.fraud.evaluation.without_features.offline import known_vectors
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import cart_sets, request_columns
from services.fraud.features.states import FEATURES, GROUPS, SETS, STATES, TABULAR
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import ENTITIES
from services.fraud.model import FALLBACK, read_model
from services.fraud.problem import DECLINE, CostModel
from services.fraud.reasons.explainer import ATTACHMENT, explanation_file
from services.fraud.reasons.worker import Explainers
from services.fraud.serving.row_cache import RowCache
from services.platform.evaluation.metrics import calibration_error
from services.platform.models.attachments import attach
from services.platform.models.candidates import Examples
from services.platform.models.onnx import ModelRefused, write_card
from services.platform.settings import Settings
from tests.conftest import card

KEYS = {"customer_id": "c1", "merchant_id": "m1", "device_id": "d1", "ip": "10.0.0.1"}


@pytest.fixture(scope="module")
def whole(simulated):
    vectors = simulated.vectors[:, : len(TABULAR)]
    sets = {"items": cart_sets(simulated.transactions)}
    return Examples(vectors, simulated.fraud, simulated.amount.astype(float), sets)


@pytest.fixture(scope="module")
def fallback(whole):
    made = Fallback({"rounds": 30, "max_depth": 4, "eta": 0.3}, TABULAR)
    made.fit(whole, whole, 0, lambda *_: None)
    return made


@pytest.fixture(scope="module")
def file(fallback):
    return write_card(fallback.export(), card(candidate="fallback", sets=SETS))


def degraded(whole):
    return Examples(lose_rows(whole.vectors, TABULAR, 3), whole.positive, whole.amount, whole.sets)


def test_a_lost_row_loses_the_columns_that_the_kernel_reads_from_it():
    request = np.array([[1.65e9, 10.0, 2.0, 9.0]])
    rows = {}
    for state in STATES:
        rows[state.name] = np.full((1, state.width), 5.0)
        rows[state.name][:, 1] = 1.65e9 - 60  # as of a minute before
    before = feature_vectors(rows, request)[0, : len(TABULAR)]
    assert not np.isnan(before).any()
    for state in STATES:
        lost = {**rows, state.name: np.full((1, state.width), np.nan)}
        missing = np.nonzero(np.isnan(feature_vectors(lost, request)[0, : len(TABULAR)]))[0]
        assert sorted(set(columns_of_states(TABULAR)[state.name])) == missing.tolist()


@pytest.mark.slow
def test_the_served_file_scores_as_the_native_model_and_is_calibrated(fallback, file, whole, onnx):
    served = read_model(attach(onnx, {FALLBACK: file})).fallback
    assert served is not None
    assert served.card.candidate == "fallback"
    some = degraded(whole)
    full = np.full((len(some), len(FEATURES)), np.nan)
    full[:, : len(TABULAR)] = some.vectors
    score = served.score(full, some.sets)
    assert np.abs(score - fallback.score(some)).max() < 1e-5
    assert calibration_error(score.astype(float), some.positive) < 0.004
    assert score.mean() == pytest.approx(some.positive.mean(), rel=0.2)


def test_without_any_row_it_costs_less_than_the_champion_and_than_approving_all(
    candidate, fallback, whole
):
    lost = whole.vectors.copy()
    lost[:, len(GROUPS["transaction"]) :] = np.nan
    without = Examples(lost, whole.positive, whole.amount, whole.sets)
    scores = [fallback.score(without), candidate.score(without), np.zeros(len(without))]
    costs = CostModel(slot=0.0)
    paid = [
        costs.total(costs.outcomes(score, 0.0, whole.amount), whole.positive, whole.amount)
        for score in scores
    ]
    assert paid[0] == min(paid)


def test_its_declines_are_explained_and_turn_without_their_reasons(fallback, whole, onnx, tmp_path):
    explained = attach(fallback.export(), {ATTACHMENT: explanation_file(fallback, whole)})
    own = write_card(explained, card(candidate="fallback", sets=SETS))
    config = Settings(home=tmp_path, model_file=tmp_path / "model.onnx")
    config.model_file.write_bytes(attach(onnx, {FALLBACK: own}))
    explainer = Explainers(config).of("fallback:1")
    some, vector, turned = degraded(whole), np.full(len(FEATURES), np.nan), []
    score, cost = fallback.score(some), CostModel()
    declined = np.flatnonzero(cost.outcomes(score, 0.0, some.amount) == DECLINE)[:60]
    for row in declined:
        vector[: len(TABULAR)] = some.vectors[row]
        sets = {"items": some.sets["items"][row : row + 1]}
        found = explainer.explain(vector, sets)
        assert 1 <= len(found.reasons) <= 4
        assert found.gap < 1e-4
        assert 1 / (1 + np.exp(-found.log_odds)) == pytest.approx(score[row], abs=1e-4)
        without = explainer.score_without(vector, sets, [r.group for r in found.reasons])
        turned.append(cost.outcome(without, int(some.amount[row])) != DECLINE)
    assert len(turned) > 20
    assert np.mean(turned) >= 0.9


def test_its_decisions_name_it_and_the_version_of_the_file(file, onnx):
    version = write_card(onnx, card(version=7))
    served = read_model(attach(version, {FALLBACK: file}))
    assert (served.card.label, served.fallback.card.label) == ("xgboost:7", "fallback:7")


def test_a_model_with_a_broken_fallback_is_refused(onnx):
    with pytest.raises(ModelRefused, match="its fallback"):
        read_model(attach(onnx, {FALLBACK: b"no model"}))


def test_a_model_from_before_fallbacks_has_none(onnx):
    assert read_model(onnx).fallback is None


@pytest.fixture(scope="module")
def world(simulated):
    """The simulated days as the offline measurement has them."""
    of = simulated.events.is_transaction
    keys = {entity: simulated.transactions[entity].to_numpy() for entity in ENTITIES}
    return SimpleNamespace(
        keys=keys,
        rows={name: done.snapshots[of] for name, done in simulated.states.items()},
        request=request_columns(simulated.transactions),
        time=event_times(simulated.transactions),
        codes={state.name: identify(state, keys)[0] for state in STATES},
    )


def test_offline_an_outage_knows_the_rows_that_were_read_before_it(world):
    first, last = len(world.time) - 300, len(world.time)
    begin, since = world.time[first], first - 5_000
    warm = known_vectors(world, [begin], [(first, last)], begin - world.time[since])
    cold = known_vectors(world, [begin], [(first, last)], 0.0)
    assert np.isnan(cold[:, len(GROUPS["transaction"]) :]).all()
    cache = RowCache(STATES)
    for i in range(since, first):
        cache.keep(keys_of(world, i), rows_of(world, i))
        cache.absorb()
    for i in (first, last - 1):
        served = feature_vectors(cache.known(keys_of(world, i)), world.request[i : i + 1])
        np.testing.assert_array_equal(served[0, : len(TABULAR)], warm[i - first])
    assert not np.isnan(warm[:, len(GROUPS["transaction"]) :]).all()


def keys_of(world, i):
    return {entity: column[i] for entity, column in world.keys.items()}


def rows_of(world, i):
    return {name: rows[i : i + 1] for name, rows in world.rows.items()}


def test_the_cache_returns_the_newest_row_and_nan_for_an_unknown_entity():
    cache = RowCache(STATES)
    old = {state.name: np.full((1, state.width), 1.0) for state in STATES}
    new = {state.name: np.full((1, state.width), 2.0) for state in STATES}
    cache.keep(KEYS, old)
    cache.keep(KEYS, new)
    known = cache.known({**KEYS, "ip": "10.0.0.2"})
    assert known["customer_state"].tolist() == new["customer_state"].tolist()
    assert np.isnan(known["ip_state"]).all()
    assert known["ip_state"].shape == (1, next(s.width for s in STATES if s.name == "ip_state"))
    assert len(cache) == len(STATES)


def test_the_cache_forgets_the_entity_that_was_not_read_for_longest():
    cache = RowCache(STATES[:1], max_rows=2)
    for number in (1, 2, 1, 3):
        row = {STATES[0].name: np.full((1, STATES[0].width), float(number))}
        cache.keep({"customer_id": f"c{number}"}, row)
    known = [cache.known({"customer_id": f"c{n}"})[STATES[0].name][0, 0] for n in (1, 2, 3)]
    assert known[0] == 1.0
    assert np.isnan(known[1])
    assert known[2] == 3.0
