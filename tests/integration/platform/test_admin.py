"""Admin routes: disabled without a token, else publishing commands; the scheduler runs them."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from services.designs import DESIGNS
from services.platform.models.promotion_log import PromotionEvent, PromotionRecord, append_record
from services.platform.retraining.admin import add_admin
from services.platform.retraining.commands import CONTROL, Command
from services.platform.retraining.scheduler import Scheduler, schedule_nights
from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.connection import ensure_stream
from tests.integration.conftest import until
from tests.streams import delete_stream

TOKEN = SecretStr("open-sesame").get_secret_value()
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def client(nc, token=TOKEN):
    app = FastAPI()
    add_admin(app, "fraud", token, lambda: nc)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.fixture
async def control(config, nc):
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    yield js
    await delete_stream(config, js, CONTROL)


async def test_the_routes_are_disabled_without_a_token(nc):
    async with client(nc, token="") as http:
        assert (await http.get("/admin/history", headers=BEARER)).status_code == 403
    async with client(nc) as http:
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": b"Bearer \xe9"}):
            answer = await http.post("/admin/night", headers=headers)
            assert answer.status_code == 401


async def test_a_token_may_have_any_characters(nc):
    async with client(nc, token="sésame") as http:
        bearer = {"Authorization": "Bearer sésame".encode()}
        assert (await http.get("/admin/history", headers=bearer)).status_code == 200


async def test_a_command_reaches_the_control_stream(nc, control):
    async with client(nc) as http:
        body = {"candidate": "deepsets"}
        answer = await http.post("/admin/swap", json=body, headers=BEARER)
        assert answer.status_code == 202
        bad = await http.post("/admin/swap", json={"candidate": "--rm -rf"}, headers=BEARER)
        assert bad.status_code == 422
    message = await control.get_msg(CONTROL, answer.json()["order"])
    assert Command.model_validate_json(message.data) == Command(verb="swap", candidate="deepsets")


async def test_without_a_control_stream_a_command_is_rejected(nc):
    async with client(nc) as http:
        assert (await http.post("/admin/night", headers=BEARER)).status_code == 503


async def test_the_history_is_read(nc):
    record = PromotionRecord(
        at="2026-01-01T00:00:00Z", event=PromotionEvent.refused, design="fraud", version=2,
        model="gnn:2", before=1, reasons=["cost: too dear"],
    )  # fmt: skip
    await append_record(nc.jetstream(), record)
    async with client(nc) as http:
        [found] = (await http.get("/admin/history", headers=BEARER)).json()
    assert PromotionRecord.model_validate(found) == record


async def test_the_scheduler_queues_commands_and_one_retraining_an_hour_on_alerts(monkeypatch):
    started, lowered = [], []

    class Done:
        def __init__(self, pid):
            self.pid = pid

        async def wait(self):
            return 0

    async def start(*command):
        started.append(command[1:-1])
        return Done(len(started))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr("services.platform.retraining.scheduler.lower_priority", lowered.append)
    scheduler = Scheduler(["whiteboard"])
    scheduler.queue_command(
        "fraud", Command(verb="swap", candidate="gnn").model_dump_json().encode()
    )
    scheduler.queue_command(
        "cv", Command(verb="rollback", reason="why not").model_dump_json().encode()
    )
    for design in ("fraud", "fraud", "cv"):
        scheduler.handle_alert(design, b"psi of amount")
    with pytest.raises(ValidationError):
        scheduler.queue_command("fraud", b'{"verb": "dance"}')
    working = asyncio.create_task(scheduler.run_jobs())
    await asyncio.sleep(0.05)
    await cancel_tasks(working)
    assert started == [
        ("swap", "fraud", "gnn"), ("rollback", "cv", "--reason", "why not"),
        ("night", "fraud"), ("night", "cv"),
    ]  # fmt: skip
    assert lowered == [1, 3, 4]  # all but the rollback, which is urgent


def test_nights_are_scheduled_unless_another_program_runs_them():
    designs = {design.name: design for design in DESIGNS}
    for night, expected in (("03:00", len(designs)), ("", 0)):
        clock = AsyncIOScheduler(timezone="UTC")
        schedule_nights(clock, Scheduler(["whiteboard"]), designs, night)
        assert len(clock.get_jobs()) == expected


async def test_a_night_runs_although_the_scheduler_was_late():
    [design, *_] = DESIGNS
    clock, scheduler = AsyncIOScheduler(timezone="UTC"), Scheduler(["whiteboard"])
    schedule_nights(clock, scheduler, {design.name: design}, "03:00")
    clock.start(paused=True)
    [job] = clock.get_jobs()
    # It was due a minute ago.
    clock.modify_job(job.id, next_run_time=datetime.now(UTC) - timedelta(minutes=1))
    clock.resume()
    await until(lambda: not scheduler._jobs.empty())
    clock.shutdown(wait=False)
