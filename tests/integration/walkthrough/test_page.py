"""The page on real engines: state, stream, and what is refused."""

import asyncio
import json
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest

from services.platform.design import registered
from services.platform.progress import noted, progress_folder
from services.walkthrough.answers import DamageState, FaultReport, FaultRequest
from services.walkthrough.app import create_app
from services.walkthrough.board import Board
from services.walkthrough.faults import Faults, NotOurs, _count_damage
from services.walkthrough.token import page_token

OURS = "http://127.0.0.1"


@pytest.fixture
async def client(config):
    transport = httpx.ASGITransport(create_app(config))
    async with httpx.AsyncClient(transport=transport, base_url=OURS, timeout=60) as made:
        yield made


async def test_engines_run_and_a_process_is_down_once_it_was_started(client, config, nc):
    log = config.home / "logs" / "feature-worker.log"
    log.parent.mkdir(exist_ok=True)
    log.touch()
    found = (await client.get("/api/state")).json()
    fraud = next(one for one in found["designs"] if one["name"] == "fraud")
    states = {box["id"]: box["state"] for box in fraud["boxes"]}
    assert {states[name] for name in ("redis", "nats", "lake")} == {"running"}
    assert (states["scorer"], states["feature-worker"]) == ("not started", "down")
    log.unlink()


async def test_where_nothing_was_asked_there_are_no_stages_and_no_decisions(client, nc):
    for design in ("fraud", "cv"):
        assert (await client.get(f"/api/stages?design={design}")).json() == []
        answer = await client.get(f"/api/decisions?design={design}")
        assert (answer.status_code, answer.json()) == (200, [])
    assert (await client.get("/api/stages?design=weather")).status_code == 404


async def test_a_first_start_is_shown_as_it_happens(client, config):
    bar = noted(progress_folder(config.home), "fraud", silent)
    with bar("simulating 60 days") as step:
        step(1, 60)
        found = (await client.get("/api/designs")).json()["progress"]
        assert found == [{"design": "fraud", "title": "simulating 60 days", "done": 1, "total": 60}]
    assert (await client.get("/api/designs")).json()["progress"] == []


@contextmanager
def silent(title):
    yield lambda done, total: None


async def test_containers_are_broken_by_docker(config):
    apart = config.model_copy(update={"host_by_name": True})
    faults = Faults(apart, Board(apart, registered(apart)))
    with pytest.raises(NotOurs, match="docker compose kill scorer"):
        faults.begin(FaultRequest(process="scorer", kind="kill"), "fraud")


async def test_a_fault_that_is_ended_while_it_strikes_is_mended(config, monkeypatch):
    """Stopping a process takes seconds, in a thread that goes on when the page ends."""
    board, done, striking = Board(config, registered(config)), [], threading.Event()

    def strike(*_):
        striking.set()
        time.sleep(0.5)
        done.append("struck")

    monkeypatch.setattr(Board, "next_reading", lambda self: asyncio.sleep(0))
    monkeypatch.setattr("services.walkthrough.faults.strike", strike)
    monkeypatch.setattr("services.walkthrough.faults.mend", lambda *_: done.append("mended"))
    faults = Faults(config, board)
    faults.begin(FaultRequest(process="redis", kind="away", seconds=5), "fraud")
    assert await asyncio.to_thread(striking.wait, 30)
    await faults.close()
    assert done == ["struck", "mended"]


async def test_what_was_mended_is_counted_and_then_done(config, monkeypatch):
    """The page runs `whiteboard damage` for the time of the fault."""
    board = Board(config, registered(config))
    faults, phases = Faults(config, board), []

    async def strike(self, request, report):
        await board.next_reading()

    async def count(report, design, since):
        phases.append((report.phase, design, since <= datetime.now(UTC)))
        report.damage = DamageState(
            came_in=9, unanswered=1, degraded=2, lost=0, doubled=0, compared=8, skewed=0, eur=1.5,
            said=["EUR is what it cost"],
        )  # fmt: skip

    monkeypatch.setattr(Faults, "_strike", strike)
    monkeypatch.setattr("services.walkthrough.faults._count_damage", count)
    report = faults.begin(FaultRequest(process="redis", kind="kill"), "fraud")
    await faults._task
    assert phases == [("counting", "fraud", True)]
    assert (report.phase, report.damage.eur) == ("done", 1.5)


async def test_what_cannot_be_counted_says_why(config, nc):
    report = FaultReport(process="redis", kind="kill", phase="counting", expected="")
    apart = {"WHITEBOARD_NATS_PORT": "9"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.walkthrough.faults.environment", lambda: {**os.environ, **apart})
        await _count_damage(report, "fraud", datetime.now(UTC))
    assert report.damage is None
    assert "no NATS" in report.uncounted


async def test_nothing_is_read_while_nobody_watches(config):
    board = Board(config, registered(config))
    async with board.watched():
        await board.next_reading()
        assert board.process_state("redis") == "running"
    assert board._task is None
    assert not any(board.readings.values())


async def test_a_watcher_who_comes_as_another_leaves_is_served(config):
    board = Board(config, registered(config))
    for _ in range(5):
        async with board.watched():
            leaving = asyncio.create_task(_watch_once(board))
            await board.next_reading()
        async with asyncio.timeout(10):
            await leaving
    assert board._task is None


async def _watch_once(board):
    async with board.watched():
        await board.next_reading()
        await asyncio.sleep(0)
    async with board.watched():
        await board.next_reading()


async def test_the_page_is_small_and_loads_nothing_from_elsewhere(client):
    page = (await client.get("/")).text
    imports = json.loads(page.split('type="importmap">')[1].split("</script>")[0])["imports"]
    files = ["/", "/style.css", "/app.js", "/icon.svg", *imports.values()]
    answers = [await client.get(file) for file in files]
    assert {answer.status_code for answer in answers} == {200}
    assert sum(len(answer.content) for answer in answers) < 150_000
    assert "https://" not in "".join(answer.text for answer in answers)


async def test_changes_need_the_token_and_a_known_name(client, config):
    body = {"process": "redis", "kind": "kill"}
    assert (await client.post("/api/fault?design=fraud", json=body)).status_code == 401
    token = {"authorization": f"Bearer {page_token(config)}"}
    unknown = {"process": "postgres", "kind": "kill"}
    answer = await client.post("/api/fault?design=fraud", json=unknown, headers=token)
    assert answer.status_code == 422
    assert "postgres" in answer.json()["error"]
    assert (await client.get("/api/drift?design=weather")).status_code == 404
    assert (await client.get("/api/image?key=../secret.jpg")).status_code == 404
