"""The review queue on a real stream: leases, one verdict a case, defaults; and live costs."""

import asyncio
import time
from dataclasses import replace
from random import Random

import httpx
import orjson
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from services.fraud.evaluation import newest_decisions
from services.fraud.ingestion.events import (
    MAX_ITEMS,
    REVIEWS_STREAM,
    VERDICTS_STREAM,
    ReviewCase,
    Transaction,
    VerdictEvent,
)
from services.fraud.problem import CostModel
from services.fraud.review import presence as presence_module
from services.fraud.review import queue as review_queue
from services.fraud.review.live import (
    BUCKET,
    CostChange,
    LivePolicy,
    change_costs,
    costs_history,
    open_bucket,
    read_costs,
)
from services.fraud.review.presence import SIMULATED_KEY, Presence, report_person, report_present
from services.fraud.review.queue import LeaseLost, ReviewQueue
from services.fraud.review.routes import add_reviews
from services.fraud.review.worker import ReviewDesk
from services.fraud.serving.app import EXAMPLE_TRANSACTION, MAX_BYTES
from services.platform.runtime.tasks import cancel_tasks
from tests.streams import delete_stream


def case(number):
    transaction = Transaction(**{**EXAMPLE_TRANSACTION, "transaction_id": f"t{number}"})
    return ReviewCase(
        decision_id=f"d{number}", score=0.3, otherwise="decline", transaction=transaction
    )


@pytest.fixture
async def js(config, nc):
    js = nc.jetstream()
    yield js
    for name in (REVIEWS_STREAM, f"KV_{BUCKET}"):
        await delete_stream(config, js, name)


async def verdicts(js):
    state = (await js.stream_info(VERDICTS_STREAM)).state
    found = [
        VerdictEvent.model_validate_json((await js.get_msg(VERDICTS_STREAM, seq)).data)
        for seq in range(max(state.first_seq, 1), state.last_seq + 1)
    ]
    return {(one.decision_id, one.outcome, one.by) for one in found}


async def test_a_case_is_leased_decided_once_and_gone(js):
    queue = await ReviewQueue.open(js)
    for number in (1, 1, 2):
        await queue.add(case(number))
    assert await queue.backlog() == 2
    first, second = await queue.take(2.0), await queue.take(2.0)
    assert (first.case.decision_id, second.case.decision_id) == ("d1", "d2")
    assert await queue.take(0.2) is None
    event = await queue.decide(first, "genuine", "ann")
    assert (event.outcome, event.verdict) == ("approve", "genuine")
    with pytest.raises(LeaseLost, match="decided"):
        await queue.decide(first, "fraud", "bob")
    with pytest.raises(LeaseLost, match="expired"):
        await queue.decide(replace(second, until=0.0), "fraud", "bob")
    assert await queue.backlog() == 1
    assert {v for v in await verdicts(js) if v[0] == "d1"} == {("d1", "approve", "ann")}


async def test_a_verdict_whose_acknowledgement_was_lost_may_be_sent_again(js):
    queue = await ReviewQueue.open(js)
    await queue.add(case(6))
    lease = await queue.take(2.0)
    first = review_queue._verdict(lease.case, "fraud", "decline", lease.waited_s, "ann")
    await js.publish("fraud.verdict.d6", first.model_dump_json().encode())
    assert await queue.decide(lease, "fraud", "ann") == first
    for verdict, by in (("genuine", "ann"), ("fraud", "bob")):
        with pytest.raises(LeaseLost, match="decided"):
            await queue.decide(lease, verdict, by)
    assert await verdicts(js) == {("d6", "decline", "ann")}


async def test_an_expired_lease_is_given_to_another_and_no_case_twice(js, monkeypatch):
    """As after kill -9: the verdict was published, or not, and nothing acknowledged the case."""
    monkeypatch.setattr(review_queue, "_ACK_WAIT_S", 1.0)
    queue = await ReviewQueue.open(js)
    await queue.add(case(3))
    await queue.add(case(4))
    lost, decided = await queue.take(2.0), await queue.take(2.0)
    event = review_queue._verdict(decided.case, "fraud", "decline", 0.0, "ann")
    await js.publish("fraud.verdict.d4", event.model_dump_json().encode())
    again = await queue.take(5.0)
    assert again.case == lost.case
    await queue.decide(again, "fraud", "bob")
    assert await queue.take(2.0) is None
    assert await queue.backlog() == 0
    assert await verdicts(js) == {("d3", "decline", "bob"), ("d4", "decline", "ann")}


async def test_a_case_whose_time_runs_out_gets_its_default(js):
    queue = await ReviewQueue.open(js)
    await queue.add(case(5))
    leased = await queue.take(2.0)
    assert await queue.close_overdue(60.0) == 0
    assert await queue.close_overdue(0.0) == 1
    assert await queue.backlog() == 0
    assert ("d5", "decline", "timeout") in await verdicts(js)
    with pytest.raises(LeaseLost, match="decided"):
        await queue.decide(leased, "genuine", "ann")


async def test_a_person_decides_a_waiting_case_by_its_id(js):
    queue = await ReviewQueue.open(js)
    await queue.add(case(7))
    leased = await queue.take(2.0)
    event = await queue.decide_waiting("d7", "genuine", "page")
    assert (event.outcome, event.by) == ("approve", "page")
    assert await queue.backlog() == 0
    assert await queue.decide_waiting("d7", "fraud", "page") == event
    assert await queue.decide_waiting("d8", "fraud", "page") is None
    with pytest.raises(LeaseLost, match="decided"):
        await queue.decide(leased, "fraud", "ann")
    assert {v for v in await verdicts(js) if v[0] == "d7"} == {("d7", "approve", "page")}


@pytest.fixture
def overtaken(monkeypatch):
    """Makes an analyst decide a leased case while another way to decide it is under way."""

    def arrange(queue, lease):
        publish = queue._publish_first

        async def later(subject, data):
            monkeypatch.setattr(queue, "_publish_first", publish)
            await queue.decide(lease, "fraud", "ann")
            return await publish(subject, data)

        monkeypatch.setattr(queue, "_publish_first", later)

    return arrange


async def test_an_analyst_who_is_first_decides_for_the_page_too(js, overtaken):
    queue = await ReviewQueue.open(js)
    await queue.add(case(30))
    overtaken(queue, await queue.take(2.0))
    found = await queue.decide_waiting("d30", "genuine", "page")
    assert (found.verdict, found.by) == ("fraud", "ann")
    assert await queue.decide_waiting("d30", "genuine", "page") == found


async def test_an_analyst_may_decide_a_case_whose_time_runs_out(js, overtaken):
    queue = await ReviewQueue.open(js)
    await queue.add(case(31))
    overtaken(queue, await queue.take(2.0))
    assert await queue.close_overdue(0.0) == 0
    assert await queue.backlog() == 0
    assert {v for v in await verdicts(js) if v[0] == "d31"} == {("d31", "decline", "ann")}


async def test_an_undecided_case_may_be_labelled(js):
    queue = await ReviewQueue.open(js)
    await queue.add(case(32))
    assert await queue.close_overdue(0.0) == 1
    assert await queue.decide_waiting("d32", "fraud", "page") is None


async def test_the_desk_prices_slots_by_backlog_and_analysts(js, nc):
    queue = await ReviewQueue.open(js)
    desk, policies = ReviewDesk(queue), LivePolicy()
    assert await desk.tick(nc) == float("inf")
    await policies.poll(js)
    assert policies.current.decide(0.3, 5_000) == "decline"
    await report_present(js, SIMULATED_KEY, 1, 5.0)
    assert await desk.tick(nc) == 0.0
    await policies.poll(js)
    assert policies.current.decide(0.3, 5_000) == "review"
    for number in range(10, 16):
        await queue.add(case(number))
    assert await desk.tick(nc) == CostModel().opex
    await policies.poll(js)
    assert policies.current.decide(0.3, 5_000) == "decline"


async def test_people_count_by_name(js):
    presence, bucket = Presence(), await open_bucket(js)
    for name in ("ann", "bob", "ann"):
        await report_person(js, name)
    await presence.update(bucket)
    assert presence.analysts == 2


async def test_who_worked_before_the_desk_started_does_not_count(js, monkeypatch):
    bucket, now = await open_bucket(js), time.time()
    monkeypatch.setattr(presence_module, "time", lambda: now - 700.0)
    for name in ("ann", "bob"):
        await report_person(js, name)
    monkeypatch.setattr(presence_module, "time", lambda: now)
    await report_present(js, SIMULATED_KEY, 5, 2.0)
    presence = Presence()
    await presence.update(bucket)
    assert presence.analysts == 0
    await report_present(js, SIMULATED_KEY, 5, 2.0)
    await presence.update(bucket)
    assert (presence.analysts, presence.seconds_per_case) == (5, 2.0)
    await report_person(js, "ann")
    await presence.update(bucket)
    assert presence.analysts == 6


async def test_changes_of_costs_at_once_are_all_kept(js):
    changes = [CostChange(opex=9), CostChange(fee=20), CostChange(missed=0.2)]
    await asyncio.gather(*(change_costs(js, change) for change in changes))
    assert await read_costs(js) == replace(CostModel(), opex=900, fee=2_000, missed=0.2)
    assert len(await costs_history(js)) == 3


@pytest.fixture
async def analysts(config, nc, js):
    """A client of the routes, and the connection that they use."""
    app, token = FastAPI(), "secret"
    add_reviews(app, config.model_copy(update={"analyst_token": SecretStr(token)}), lambda: nc)
    transport, headers = httpx.ASGITransport(app), {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as made:
        yield made


async def test_requests_leave_no_subscription(analysts, js, nc):
    queue = await ReviewQueue.open(js)
    for number in range(20, 23):
        await queue.add(case(number))
    # The first makes the connection's own subscription for replies.
    await js.stream_info(REVIEWS_STREAM)
    before = len(nc._subs)
    for number in range(20, 23):
        given = (await analysts.get("/reviews/next", params={"by": "ann"})).json()
        body = {"verdict": "fraud", "token": given["token"], "by": "ann"}
        answer = await analysts.post(f"/reviews/d{number}", json=body)
        assert (answer.status_code, answer.json()["by"]) == (200, "ann")
    assert (await analysts.get("/reviews/next")).status_code == 204
    assert (await analysts.get("/reviews/next", params={"by": "a b"})).status_code == 422
    assert len(nc._subs) == before


async def test_the_largest_case_can_be_decided(analysts, js):
    rng = Random(0)
    letters = [chr(code) for code in range(0x10000, 0x110000)]
    item = {"price_minor": 99_999_999}
    cart = [{**item, "category": "".join(rng.choices(letters, k=40))} for _ in range(MAX_ITEMS)]
    body = orjson.dumps({**EXAMPLE_TRANSACTION, "cart": cart})
    assert 39_000 < len(body) < MAX_BYTES
    queue = await ReviewQueue.open(js)
    largest = Transaction.model_validate_json(body)
    await queue.add(case(40).model_copy(update={"transaction": largest}))
    given = (await analysts.get("/reviews/next")).json()
    decision = {"verdict": "fraud", "token": given["token"]}
    assert len(orjson.dumps(decision)) < MAX_BYTES
    assert (await analysts.post("/reviews/d40", json=decision)).status_code == 200


async def test_costs_have_a_history_and_scorers_follow(js, nc):
    assert await read_costs(js) == CostModel()
    policies = LivePolicy()
    watching = asyncio.create_task(policies.watch(nc))
    try:
        for opex in (8, 900):
            await change_costs(js, CostChange(opex=opex, fee=25))
            async with asyncio.timeout(5.0):
                while policies.current.costs.opex != opex * 100:
                    await asyncio.sleep(0.02)
        assert policies.current.costs.fee == 2_500
        assert policies.current.decide(0.9, 5_000) == "approve"
        assert [c.opex for _, c in await costs_history(js)] == [800, 90_000]
        await (await open_bucket(js)).put("costs", b"no json")
        await asyncio.sleep(0.6)
        assert policies.current.costs.opex == 90_000
    finally:
        await cancel_tasks(watching)


async def test_the_page_passes_over_a_decision_that_it_cannot_read(config, js):
    readable = {
        "transaction_id": "t", "decision_id": "d" * 32, "decision": "approve", "score": 0.3,
        "threshold": 0.5, "model": "xgboost:1", "degraded": False, "features": [], "seqs": {},
        "transaction": EXAMPLE_TRANSACTION,
    }  # fmt: skip
    for event in (readable, {**readable, "score": None}):
        await js.publish("fraud.decision.1.approved", orjson.dumps(event))
    [shown] = await newest_decisions.newest(config, 10)
    assert shown.score == 0.3
    with pytest.raises(LookupError):
        await newest_decisions.label(config, "e" * 32, "fraud")
    assert "Labelled" in await newest_decisions.label(config, "d" * 32, "fraud")
