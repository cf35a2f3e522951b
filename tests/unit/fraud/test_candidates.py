"""Conformance tests for every candidate, and the registry."""

import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest

from features.spec import DAY
from services.fraud.candidates import CANDIDATES
from services.fraud.features import encoder
from services.fraud.features.embedding_log import midnights, write_embedding_columns
from services.fraud.features.embeddings import embed_at, encoder_hyperparameters
from services.fraud.features.graph import TransactionLog
from services.fraud.features.states import FEATURES, SETS, TABULAR
from services.fraud.retraining.dataset import examples
from services.fraud.retraining.training import new_candidate
from services.platform.models.candidates import Candidate, CandidateRegistry, Examples
from services.platform.models.onnx import INPUT, OUTPUT, write_card
from services.platform.models.tabular import TabularModel, pad_sets
from tests.conftest import card
from tests.identical import assert_identical

KINDS = dict(sorted(CANDIDATES.all().items()))
NAMES = list(KINDS)
WITH_CARTS = [name for name, kind in KINDS.items() if "items" in kind.sets]
WITH_EMBEDDINGS = [name for name, kind in KINDS.items() if "graph" in kind.groups]


def no_progress(*_):
    pass


def part(whole: Examples, rows) -> Examples:
    sets = {name: values[rows] for name, values in whole.sets.items()}
    return Examples(whole.vectors[rows].copy(), whole.positive[rows], whole.amount[rows], sets)


@pytest.fixture(scope="module")
def vectors(simulated):
    """The simulated vectors with embeddings of a briefly trained encoder."""
    log = TransactionLog.of(simulated.transactions, simulated.labels)
    nights = midnights(log.time.min() + 2 * DAY, log.time.max())
    short = {**encoder_hyperparameters(), "epochs": 1}
    made = encoder.train(log, simulated.encoder_examples(log), nights[:3], short, 0, no_progress)
    found = simulated.vectors.copy()
    snapshots = embed_at(made, log, nights, no_progress)
    write_embedding_columns(log, np.arange(len(found)), snapshots, found[:, len(TABULAR) :])
    return found


@pytest.fixture(scope="module")
def whole(simulated, vectors):
    rows = simulated.transactions.append_column("fraud", [simulated.fraud])
    return lambda kind: examples(rows, vectors, kind)


@pytest.fixture(scope="module", params=NAMES)
def trained(request, whole):
    made = new_candidate(request.param)
    less = {"epochs": 2, "more_epochs": 1, "more_rounds": 10}
    made.parameters |= {k: v for k, v in less.items() if k in made.parameters}
    data = whole(type(made))
    half = len(data) // 2
    steps: list[tuple[int, int]] = []
    made.fit(
        part(data, slice(0, half)), part(data, slice(half, None)), 0,
        lambda done, of: steps.append((done, of)),
    )  # fmt: skip
    return made, steps, data


@pytest.fixture(scope="module")
def exported(trained):
    """Its file, exported once: torch takes seconds."""
    return trained[0].export()


@pytest.mark.slow
def test_the_export_scores_as_the_native_model(trained, exported):
    made, _, data = trained
    some = part(data, slice(0, None, 7))
    some.vectors[::3, ::2] = np.nan
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    inputs = {INPUT: some.vectors.astype(np.float32), **some.sets}
    [found] = session.run([OUTPUT], inputs)
    assert found.shape == (len(some),)
    assert np.abs(found - made.score(some)).max() < 1e-5


def test_serving_accepts_the_file(trained, exported, vectors):
    made, _, data = trained
    sets = {name: SETS[name] for name in made.sets}
    changed = card(candidate=made.name, features=made.features, sets=sets)
    model = TabularModel(write_card(exported, changed), "fraud", FEATURES, SETS)
    some = part(data, slice(0, 100))
    scores = model.score(vectors[:100], some.sets)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.abs(scores - made.score(some)).max() < 1e-5
    one = model.score(vectors[:1], {name: v[:1] for name, v in some.sets.items()})
    assert abs(one[0] - scores[0]) < 1e-6


def test_it_reports_progress_and_its_native_model_can_be_trained_further(trained, tmp_path):
    made, steps, data = trained
    assert steps[-1][0] == steps[-1][1]
    made.save(tmp_path)
    again = new_candidate(made.name)
    again.parameters |= made.parameters
    again.load(tmp_path)
    some = part(data, slice(0, 500))
    assert np.abs(again.score(some) - made.score(some)).max() < 1e-6
    again.fit_more(part(data, slice(0, 5_000)), 0, no_progress)
    assert np.abs(again.score(some) - made.score(some)).max() > 1e-4
    assert made.name
    assert made.role


def test_it_learns(trained):
    made, _, data = trained
    score = made.score(data)
    assert score[data.positive].mean() > 3 * score[~data.positive].mean()


@pytest.mark.parametrize("trained", WITH_CARTS, indirect=True)
def test_the_score_does_not_depend_on_the_order_of_a_cart(trained):
    made, _, data = trained
    some = part(data, slice(0, 2_000))
    items = some.sets["items"]
    order = np.random.default_rng(0).permuted(
        np.tile(np.arange(items.shape[1]), (2_000, 1)), axis=1
    )
    shuffled = np.take_along_axis(items, order[..., None], axis=1)
    assert not np.array_equal(shuffled, items)
    moved = Examples(some.vectors, some.positive, some.amount, {"items": shuffled})
    assert np.abs(made.score(moved) - made.score(some)).max() < 1e-5


@pytest.mark.parametrize("trained", WITH_CARTS, indirect=True)
def test_carts_of_several_sizes_score_the_same_in_a_batch_as_alone(trained, exported, vectors):
    made, _, data = trained
    changed = card(candidate=made.name, features=made.features, sets=dict(SETS))
    model = TabularModel(write_card(exported, changed), "fraud", FEATURES, SETS)
    count = np.maximum((data.sets["items"][:100, :, 0] >= 0).sum(axis=1), 1)
    carts = [data.sets["items"][row : row + 1, :size] for row, size in enumerate(count)]
    assert len(set(count)) > 3
    alone = [model.score(vectors[n : n + 1], {"items": cart})[0] for n, cart in enumerate(carts)]
    together = model.score(vectors[:100], {"items": pad_sets(carts)})
    assert np.abs(together - alone).max() < 1e-6


@pytest.mark.parametrize("trained", WITH_EMBEDDINGS, indirect=True)
def test_a_party_without_an_embedding_is_scored(trained):
    made, _, data = trained
    some = part(data, slice(0, 2_000))
    some.vectors[:, len(TABULAR) :] = np.nan
    assert np.isfinite(made.score(some)).all()


@pytest.mark.parametrize("name", ["xgboost", "deepsets"])
def test_the_same_seed_gives_the_same_scores(whole, name):
    scores = []
    for _ in range(2):
        made = new_candidate(name)
        made.parameters |= {"rounds": 5} if name == "xgboost" else {"epochs": 1}
        data = part(whole(type(made)), slice(0, 5_000))
        made.fit(data, data, 3, no_progress)
        scores.append(made.score(data))
    assert_identical(scores[0], scores[1])


def test_a_name_is_registered_once_and_an_unknown_name_lists_the_known_ones():
    registry = CandidateRegistry("services.fraud.candidates")

    class One(Candidate):
        name = "one"
        role = "test"

    registry.register(One)
    with pytest.raises(ValueError, match="'one'"):
        registry.register(One)
    with pytest.raises(KeyError, match=r"choose from .*xgboost"):
        CANDIDATES.get("crystal-ball")


@pytest.mark.parametrize("name", ["", "../xgboost", "xgboost.py", "xgboost.XGBoost", "__init__"])
def test_what_is_no_candidates_name_lists_the_known_ones(name):
    with pytest.raises(KeyError, match=r"choose from .*xgboost"):
        CANDIDATES.get(name)


@pytest.mark.slow
def test_a_first_start_trains_without_libraries_it_does_not_need():
    code = """import sys
from services.fraud.retraining.training import new_candidate
new_candidate("xgboost")
print([name for name in ("feast", "torch", "torch_geometric") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
