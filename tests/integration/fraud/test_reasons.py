"""The reasons worker on the real stream, and who reads what it wrote."""

import asyncio
import math

import httpx
import orjson
import pytest

from features.cluster.clients import open_redis
from monitoring.alerts import newest_alerts
from monitoring.drift_table import REASONS, read_windows
from services.fraud.evaluation.newest_decisions import label
from services.fraud.evaluation.reasons import deletion_test, why
from services.fraud.features.states import FEATURE_SET
from services.fraud.ingestion.events import (
    DECISION,
    DECISIONS_STREAM,
    LABEL,
    STREAM,
    ReviewCase,
    Transaction,
)
from services.fraud.ingestion.lake_writer import to_row
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE
from services.fraud.model import read_model
from services.fraud.reasons.explainer import ATTACHMENT, explanation_file
from services.fraud.reasons.mix import COLUMN, WINDOW
from services.fraud.reasons.parties import ChargedBackParties
from services.fraud.reasons.report import BUCKET, open_bucket
from services.fraud.reasons.worker import Explainers, ReasonsWorker
from services.fraud.review.queue import ReviewQueue
from services.fraud.serving.app import EXAMPLE_TRANSACTION, create_app
from services.platform.models.attachments import attach
from services.platform.models.names import CHAMPION, version_path
from services.platform.models.onnx import write_card
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message
from tests.conftest import card
from tests.integration.conftest import lag, until

pytestmark = pytest.mark.slow

NAME = "reasons"


@pytest.fixture
def champion(config, nc, candidate, simulated):
    """The champion's file, which explains itself, as registration stores it."""
    file = explanation_file(candidate, simulated.examples, {"transaction": 1})
    data = write_card(attach(candidate.export(), {ATTACHMENT: file}), card())
    Lake(config).put(version_path("fraud", 1), data)
    put_served(config, data, "fraud", CHAMPION, 1)
    return read_model(data)


def declined(model, simulated, count):
    """Events of the transactions with the highest scores."""
    scores = model.score(simulated.vectors, {})
    chosen = scores.argsort()[::-1][:count]
    events = []
    for n, row in enumerate(chosen):
        vector = [None if math.isnan(v) else v for v in simulated.vectors[row].tolist()]
        events.append(
            {"transaction_id": f"t{n}", "decision_id": f"{n:032x}", "decision": "decline",
             "score": float(scores[row]), "threshold": 0.2, "model": "xgboost:1",
             "degraded": False, "transaction": {**EXAMPLE_TRANSACTION, "transaction_id": f"t{n}"},
             "features": vector, "seqs": {"ip_state": n}, "feature_set": FEATURE_SET.hash,
             "stage_seconds": {"infer": 0.0001}, "model_decision": "decline",
             "costs": {"opex": 500.0, "slot": None}}
        )  # fmt: skip
    return events


async def publish(nc, events):
    for event in events:
        await nc.jetstream().publish(f"{DECISION}.1.flagged", orjson.dumps(event))


async def stored(nc):
    status = await (await nc.jetstream().key_value(BUCKET)).status()
    return status.values


async def test_killed_it_loses_nothing(config, nc, champion, simulated, worker):
    events = declined(champion, simulated, 60)
    approved = {**events[0], "decision": "approve", "decision_id": "approved"}
    await publish(nc, [approved, *events[:40]])
    await nc.jetstream().publish(f"{DECISION}.1.approved", b"not read")
    first = worker("fraud", NAME)

    async def some():
        try:
            return await stored(nc) > 0
        except Exception:
            return False

    await until(some)
    first.kill()
    await publish(nc, events[40:])
    worker("fraud", NAME)

    async def done():
        return await lag(nc, DECISIONS_STREAM, NAME) == 0

    await until(done)
    assert await stored(nc) == 60
    bucket = await nc.jetstream().key_value(BUCKET)
    for event in events:
        report = orjson.loads((await bucket.get(event["decision_id"])).value)
        assert report["gap"] < 1e-4
        assert 1 <= len(report["reasons"]) <= 4
        assert report["stage_seconds"] == {"infer": 0.0001}
    app = create_app(config)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        ) as client,
    ):

        async def answered():
            return (await client.get(f"/decisions/{events[0]['decision_id']}")).status_code == 200

        await until(answered)
        found = (await client.get(f"/decisions/{events[0]['decision_id']}")).json()
        assert found["decision"] == "decline"
        assert found["vector"]["amount"] == events[0]["features"][0]
        missing = await client.get("/decisions/approved")
        assert missing.status_code == 404
        assert "within a second" in missing.json()["error"]
        answer = await client.post("/score?reasons=true", json=EXAMPLE_TRANSACTION)
        assert answer.status_code == 200
        assert "reasons;dur=" in answer.headers["server-timing"]
        assert isinstance(answer.json()["reasons"], list)
        plain = await client.post("/score", json=EXAMPLE_TRANSACTION)
        assert "reasons" not in plain.json()
    report = await asyncio.to_thread(why, config, events[3]["decision_id"])
    assert report["transaction_id"] == "t3"


async def test_a_full_window_of_declines_is_compared_with_training(config, nc, champion, simulated):
    events = declined(champion, simulated, WINDOW)
    await publish(nc, events)
    js, lake = nc.jetstream(), Lake(config)
    parties = ChargedBackParties(lake, open_redis(config))
    worker = ReasonsWorker(Explainers(config), parties, await open_bucket(js), js, lake)
    batch = [Message(f"{DECISION}.1", orjson.dumps(e), n + 1, 0, "") for n, e in enumerate(events)]
    for _ in range(2):  # a batch that is not acknowledged comes again
        await worker.handle(batch)
    [row] = read_windows(lake, "fraud", REASONS).to_pylist()
    assert (row["seq"], row["rows"], row["columns"]) == (WINDOW, WINDOW, [COLUMN])
    [alert] = [a for a in await newest_alerts(js) if a.kind == REASONS]
    assert f"PSI {row['psi'][0]:.2f}" in alert.said


async def test_a_label_that_the_page_sends_again_counts_once(config, nc, champion, simulated):
    await publish(nc, declined(champion, simulated, 1))
    for _ in range(2):
        await label(config, f"{0:032x}", "fraud")
    info = await nc.jetstream().stream_info(STREAM, subjects_filter=f"{LABEL}.>")
    assert sum((info.state.subjects or {}).values()) == 1


async def test_the_pages_verdict_decides_a_case_under_review(config, nc, champion, simulated):
    [event] = declined(champion, simulated, 1)
    event |= {"decision": "review", "decision_id": "f" * 32}
    await publish(nc, [event])
    queue = await ReviewQueue.open(nc.jetstream())
    case = ReviewCase(decision_id=event["decision_id"], score=event["score"], otherwise="decline",
                      transaction=Transaction(**event["transaction"]))  # fmt: skip
    await queue.add(case)
    assert "outcome is approve" in await label(config, case.decision_id, "genuine")
    assert await queue.backlog() == 0
    assert "outcome is approve" in await label(config, case.decision_id, "genuine")
    assert "Labelled fraud" in await label(config, case.decision_id, "fraud")


async def test_the_page_gives_no_second_label_to_what_an_analyst_decided(
    config, nc, champion, simulated
):
    [event] = declined(champion, simulated, 1)
    event |= {"decision": "review", "decision_id": "e" * 32}
    await publish(nc, [event])
    queue = await ReviewQueue.open(nc.jetstream())
    await queue.add(
        ReviewCase(decision_id=event["decision_id"], score=event["score"], otherwise="decline",
                   transaction=Transaction(**event["transaction"]))
    )  # fmt: skip
    await queue.decide(await queue.take(2.0), "fraud", "ann")
    for said in ("genuine", "fraud"):
        answer = await label(config, event["decision_id"], said)
        assert "decided already, as fraud by ann" in answer
    info = await nc.jetstream().stream_info(STREAM, subjects_filter=f"{LABEL}.>")
    assert not info.state.subjects


async def test_decisions_of_the_lake_are_explained_and_tested(config, nc, champion, simulated):
    import pyarrow as pa

    events = declined(champion, simulated, 30)
    events[0]["decision"] = "approve"
    events[1]["model_decision"] = "approve"  # a rule declined it
    rows = []
    for n, event in enumerate(events):
        _, row = to_row(Message(f"{DECISION}.1", orjson.dumps(event), n + 1, 0, ""))
        rows.append({"seq": n + 1, **row})
    Lake(config).write(DECISIONS_TABLE, pa.Table.from_pylist(rows, schema=DECISION_SCHEMA), "a")
    report = await asyncio.to_thread(why, config, "t0")
    assert report["decision"] == "approve"
    assert report["reasons"]
    with pytest.raises(KeyError, match="no decision 'nothing'"):
        await asyncio.to_thread(why, config, "nothing")
    from contextlib import nullcontext

    found = await asyncio.to_thread(
        deletion_test, config, 100, lambda _: nullcontext(lambda *_: None)
    )
    assert found.declines == 28
    assert found.turned >= 0.9
    assert found.max_gap < 1e-4
    assert sum(found.mix.values()) == 28
