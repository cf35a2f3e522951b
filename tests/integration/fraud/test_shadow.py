"""Shadow mode as a process: it scores logged decisions; a bad challenger does no harm."""

import asyncio

import numpy as np
import orjson
import pytest
from nats.js.errors import NotFoundError
from redis import Redis

from features.online.table import OnlineTable
from features.spec import SEQ, TIME, VALUES
from services.fraud.features.states import EMBEDDINGS, FEATURES, SETS, TABULAR
from services.fraud.ingestion.events import DECISION, DECISIONS_STREAM
from services.fraud.model import read_model
from services.fraud.retraining.training import new_candidate
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.models import served_model
from services.platform.models.checks.probe import refuse_greedy
from services.platform.models.names import CHALLENGER, CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.promotion import announce
from services.platform.models.served_file import put_served
from services.platform.models.served_model import ServedModel
from services.platform.models.tabular import TabularModel
from services.platform.retraining.shadow import NAME, shadow_table
from services.platform.runtime.tasks import cancel_tasks
from services.platform.storage.lake import Lake
from tests.conftest import card
from tests.integration.conftest import lag, until
from tests.unit.fraud.test_challengers import slowed

pytestmark = pytest.mark.slow


def event(number, vector):
    return orjson.dumps(
        {
            "transaction_id": f"t{number}",
            "decision_id": f"d{number}",
            "decision": "approve",
            "score": 0.1,
            "threshold": 0.2,
            "model": "xgboost:1",
            "degraded": number % 10 == 9,
            "transaction": {**EXAMPLE_TRANSACTION, "transaction_id": f"t{number}"},
            "features": vector,
            "seqs": {},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


async def decide(nc, simulated, count, begin=0):
    js = nc.jetstream()
    for i in range(begin, begin + count):
        await js.publish(f"{DECISION}.0", event(i, simulated.vectors[i]))


def scores(config):
    return Lake(config).read(shadow_table("fraud"))


async def announce_challenger(config, nc, file, version, role=CHALLENGER):
    put_served(config, file, "fraud", role, 1)
    await announce(nc, "fraud", version, role)


@pytest.fixture
async def shadow(config, nc, onnx, worker):
    await announce_challenger(config, nc, onnx, 1, CHAMPION)
    return worker("fraud", "shadow")


async def caught_up(nc):
    """Whether shadow mode has processed the whole stream."""
    return await lag(nc, DECISIONS_STREAM, NAME) == 0


async def consumer_deleted(nc):
    """Whether the stream has no consumer for shadow mode any more."""
    try:
        await nc.jetstream().consumer_info(DECISIONS_STREAM, NAME)
    except NotFoundError:
        return True
    return False


@pytest.fixture(scope="module")
def graph_file(simulated):
    """A GNN's file with its card."""
    made = new_candidate("gnn")
    made.parameters |= {"epochs": 1}
    rng = np.random.default_rng(0)
    vectors = simulated.vectors[:5_000].copy()
    vectors[:, len(TABULAR) :] = rng.normal(size=(5_000, len(FEATURES) - len(TABULAR)))
    from services.platform.models.candidates import Examples

    data = Examples(vectors, simulated.fraud[:5_000], simulated.amount[:5_000])
    made.fit(data, data, 0, lambda *_: None)
    changed = card(candidate="gnn", version=2, features=made.features)
    return write_card(made.export(), changed)


async def test_a_challenger_scores_what_was_logged(config, nc, shadow, simulated, candidate):
    await decide(nc, simulated, 30)
    await announce_challenger(config, nc, write_card(candidate.export(), card(version=7)), 7)
    await until(lambda: caught_up(nc))
    assert scores(config) is None
    await decide(nc, simulated, 100, begin=100)
    await until(lambda: scores(config) is not None and len(scores(config)) == 90)
    found = scores(config).sort_by("seq")
    assert set(found["version"].to_pylist()) == {7}
    from services.platform.models.candidates import Examples

    rows = [int(t[1:]) for t in found["decision_id"].to_pylist()]
    data = Examples(
        simulated.vectors[rows][:, : len(TABULAR)], simulated.fraud[rows], simulated.amount[rows]
    )
    assert np.abs(found["score"].to_numpy() - candidate.score(data)).max() < 1e-5
    timed = found["seconds"].drop_null().to_numpy()
    assert len(timed) >= 16
    assert (timed > 0).all()
    await announce(nc, "fraud", None, CHALLENGER)
    await until(lambda: consumer_deleted(nc))
    await decide(nc, simulated, 10, begin=300)
    assert shadow.poll() is None
    assert len(scores(config)) == 90


async def test_a_challenger_that_needs_embeddings_gets_them(
    config, nc, shadow, simulated, graph_file
):
    """The champion needs none, so the decisions contain none."""
    vector = simulated.vectors[5].copy()
    with Redis.from_url(config.redis) as redis:
        for number, view in enumerate(EMBEDDINGS):
            row = np.full((1, view.width), 0.1 * (number + 1))
            row[:, SEQ], row[:, TIME] = 3, 1.65e9
            OnlineTable(redis, view).store([(EXAMPLE_TRANSACTION[view.keys[0]],)], row)
            begin = len(TABULAR) + number * view.size
            vector[begin : begin + view.size] = row[0, VALUES:]
    await announce_challenger(config, nc, graph_file, 2)
    await until(lambda: caught_up(nc))
    await nc.jetstream().publish(f"{DECISION}.0", event(5, simulated.vectors[5]))
    await until(lambda: scores(config) is not None)
    [expected] = TabularModel(graph_file, "fraud", FEATURES, SETS).score(vector[None])
    assert scores(config)["score"].to_pylist() == pytest.approx([float(expected)], abs=1e-6)


async def test_a_slow_challenger_scores_a_sample_and_the_stream_goes_on(
    config, nc, shadow, simulated, candidate
):
    slow = write_card(slowed(candidate.export()), card(version=3))
    await announce_challenger(config, nc, slow, 3)
    await until(lambda: caught_up(nc))
    await decide(nc, simulated, 300)
    await until(lambda: caught_up(nc))
    assert 0 < len(scores(config)) < 270


async def test_a_refused_file_is_tried_once_until_another_is_announced(
    config, nc, onnx, monkeypatch
):
    """Every attempt to load a hanging file occupies a core for seconds."""
    tried = []

    def refuse(data, read, passed):
        tried.append(data)
        refuse_greedy(data, read, passed)

    monkeypatch.setattr(served_model, "refuse_greedy", refuse)
    challenger = ServedModel(config, "fraud", read_model, CHALLENGER)
    watching = asyncio.create_task(challenger.watch(nc))
    await announce_challenger(config, nc, b"not a model", 4)
    await until(lambda: len(tried) > 0)
    await asyncio.sleep(2.5)
    assert tried == [b"not a model"]
    await announce_challenger(config, nc, onnx, 1)
    await until(lambda: challenger.model is not None)
    assert len(tried) == 2
    await cancel_tasks(watching)


async def test_shadow_mode_survives_a_challenger_file_that_is_not_a_model(
    config, nc, shadow, simulated
):
    await announce_challenger(config, nc, b"not a model", 4)
    await asyncio.sleep(2.5)
    await decide(nc, simulated, 20)
    assert scores(config) is None
    assert shadow.poll() is None
