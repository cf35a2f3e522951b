"""Admin routes: shut without a token, an order with one; the scheduler carries orders out."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from services.platform.models.promotion_log import Event, Record, append
from services.platform.retraining.admin import CONTROL, Order, add_admin
from services.platform.retraining.scheduler import Scheduler
from services.platform.streaming.consumer import ensure_stream

TOKEN = SecretStr("open-sesame").get_secret_value()
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def client(nc, token=TOKEN):
    app = FastAPI()
    add_admin(app, "fraud", token, lambda: nc)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://scorer")


@pytest.fixture
async def control(nc):
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    yield js
    await js.delete_stream(CONTROL)


async def test_the_routes_are_shut_without_a_token(nc):
    async with client(nc, token="") as http:
        assert (await http.get("/admin/history", headers=BEARER)).status_code == 403
    async with client(nc) as http:
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": b"Bearer \xe9"}):
            answer = await http.post("/admin/night", headers=headers)
            assert answer.status_code == 401


async def test_a_token_may_be_of_any_letters(nc):
    async with client(nc, token="sésame") as http:
        bearer = {"Authorization": "Bearer sésame".encode()}
        assert (await http.get("/admin/history", headers=bearer)).status_code == 200


async def test_an_order_reaches_the_control_stream(nc, control):
    async with client(nc) as http:
        body = {"candidate": "deepsets"}
        answer = await http.post("/admin/swap", json=body, headers=BEARER)
        assert answer.status_code == 202
        bad = await http.post("/admin/swap", json={"candidate": "--rm -rf"}, headers=BEARER)
        assert bad.status_code == 422
    message = await control.get_msg(CONTROL, answer.json()["order"])
    assert Order.model_validate_json(message.data) == Order(verb="swap", candidate="deepsets")


async def test_without_a_control_stream_an_order_is_not_taken(nc):
    async with client(nc) as http:
        assert (await http.post("/admin/night", headers=BEARER)).status_code == 503


async def test_the_history_is_read(nc):
    record = Record(
        at="2026-01-01T00:00:00Z", event=Event.refused, design="fraud", version=2,
        model="gnn:2", before=1, reasons=["cost: too dear"],
    )  # fmt: skip
    await append(nc.jetstream(), record)
    async with client(nc) as http:
        [found] = (await http.get("/admin/history", headers=BEARER)).json()
    assert Record.model_validate(found) == record


async def test_the_scheduler_queues_orders_and_answers_drift_once_an_hour(monkeypatch):
    started, aside = [], []

    class Done:
        def __init__(self, pid):
            self.pid = pid

        async def wait(self):
            return 0

    async def start(*command):
        started.append(command[3:-1])
        return Done(len(started))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr("services.platform.retraining.scheduler.stand_aside", aside.append)
    scheduler = Scheduler()
    scheduler.order("fraud", Order(verb="swap", candidate="gnn").model_dump_json().encode())
    scheduler.order("cv", Order(verb="rollback", reason="why not").model_dump_json().encode())
    for design in ("fraud", "fraud", "cv"):
        scheduler.alert(design, "psi of amount")
    with pytest.raises(ValidationError):
        scheduler.order("fraud", b'{"verb": "dance"}')
    working = asyncio.create_task(scheduler.work())
    await asyncio.sleep(0.05)
    working.cancel()
    assert started == [
        ("swap", "fraud", "gnn"), ("rollback", "cv", "--reason", "why not"),
        ("night", "fraud"), ("night", "cv"),
    ]  # fmt: skip
    assert aside == [1, 3, 4]  # all but the rollback, which somebody waits for
