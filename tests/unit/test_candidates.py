"""What every candidate must satisfy, and the registry."""

import numpy as np
import onnxruntime as ort
import pytest

from services.fraud.candidates import CANDIDATES
from services.fraud.features import FEATURES
from services.fraud.training import hyperparameters
from services.skeleton.candidates import Candidate, Candidates, Examples
from services.skeleton.model import INPUT, OUTPUT, Model, stamp
from tests.conftest import card

NAMES = sorted(CANDIDATES.all())


@pytest.fixture(scope="module", params=NAMES)
def trained(request, world):
    made = CANDIDATES.get(request.param)({**hyperparameters(request.param)}, FEATURES)
    half = len(world.fraud) // 2
    parts = (slice(0, half), slice(half, None))
    train, validation = (Examples(world.vectors[p], world.fraud[p], world.amount[p]) for p in parts)
    steps: list[tuple[int, int]] = []
    made.fit(train, validation, 0, lambda done, of: steps.append((done, of)))
    return made, steps


def test_the_export_scores_as_the_native_model(trained, world):
    made, _ = trained
    vectors = world.vectors[::7].copy()
    vectors[::3, ::2] = np.nan
    session = ort.InferenceSession(made.export(), providers=["CPUExecutionProvider"])
    [found] = session.run([OUTPUT], {INPUT: vectors.astype(np.float32)})
    assert found.shape == (len(vectors),)
    assert np.abs(found - made.score(vectors)).max() < 1e-5


def test_the_file_is_one_serving_accepts(trained, world):
    made, _ = trained
    model = Model(stamp(made.export(), card(candidate=made.name)), "fraud", FEATURES)
    scores = model.score(world.vectors[:100])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.abs(scores - made.score(world.vectors[:100])).max() < 1e-5


def test_it_shows_its_progress_and_keeps_its_native_model(trained, tmp_path):
    made, steps = trained
    assert steps
    assert steps[-1][0] == steps[-1][1]
    made.save(tmp_path)
    assert any(tmp_path.iterdir())
    assert made.name
    assert made.role


def test_it_learns(trained, world):
    made, _ = trained
    score = made.score(world.vectors)
    assert score[world.fraud].mean() > 3 * score[~world.fraud].mean()


def test_a_seed_repeats_itself(world):
    examples = Examples(world.vectors[:5_000], world.fraud[:5_000], world.amount[:5_000])
    scores = []
    for _ in range(2):
        made = CANDIDATES.get("xgboost")({"rounds": 5, "subsample": 0.5}, FEATURES)
        made.fit(examples, examples, 3, lambda *_: None)
        scores.append(made.score(world.vectors[:100]))
    assert scores[0].tobytes() == scores[1].tobytes()


def test_a_name_is_taken_once_and_an_unknown_one_lists_the_rest():
    registry = Candidates("services.fraud.candidates")

    class One(Candidate):
        name = "one"
        role = "test"

    registry.register(One)
    with pytest.raises(ValueError, match="'one'"):
        registry.register(One)
    with pytest.raises(KeyError, match=r"choose from .*xgboost"):
        CANDIDATES.get("crystal-ball")
