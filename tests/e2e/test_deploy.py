"""A rolling restart of real scorers under steady load: no request fails, no decision is lost."""

import asyncio
import os
import signal
import time

import pytest

from services.fraud.service import SCORER
from services.platform.runtime.sharing.siblings import ask_ready, shared_folder
from tests.e2e.scoring_load import ScoringLoad, decided
from tests.e2e.test_demo import Installation, metric

pytestmark = pytest.mark.e2e
CLIENTS, PAUSE_S = 16, 0.05


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    made = Installation(tmp_path_factory.mktemp("deploy"))
    made.env |= {"WHITEBOARD_DESIGNS": "tests.e2e.fraud_alone", "WHITEBOARD_SCORER_PROCESSES": "2"}
    made.run("up", "--days", "40")
    yield made
    made.run("down")


async def under_load(here, name, *arguments):
    """Run a command under load. Returns the load, and decisions by transaction in the stream."""
    config = here.settings()
    async with ScoringLoad(SCORER.url(config), name, CLIENTS, PAUSE_S) as load:
        await asyncio.sleep(1)
        done = await asyncio.to_thread(here.finished, list(arguments), 600)
        await asyncio.sleep(1)
    assert done.returncode == 0, done.stderr[-3_000:]
    return load, await decided(config, name)


def all_are_decided_once(load, decisions):
    assert load.failures == []
    assert len(load.answered) > 100
    assert set(decisions) == set(load.answered)
    assert set(decisions.values()) == {1}


def sharing(here):
    found = here.figures("status")["sharing"]
    assert all(one["accepts"] for one in found.values())
    return found


async def test_two_scorers_are_replaced_while_both_builds_answer(here):
    url = f"{SCORER.url(here.settings())}/metrics"
    before = metric(url, "requests_total")
    old = {one["build"] for one in sharing(here).values()}
    here.env["WHITEBOARD_BUILD"] = "next"
    load, decisions = await under_load(here, "two", "deploy", "fraud")
    all_are_decided_once(load, decisions)
    found = sharing(here)
    assert list(found) == ["scorer", "scorer-1"]
    assert {one["build"] for one in found.values()} == {"next"} != old
    time.sleep(2)
    assert metric(url, "requests_total") - before == len(load.answered)


async def test_fewer_and_more_of_them_under_load(here):
    for number in ("1", "3", "2"):
        here.env["WHITEBOARD_SCORER_PROCESSES"] = number
        all_are_decided_once(*await under_load(here, f"to-{number}", "up"))
        assert len(sharing(here)) == int(number)


async def test_one_scorer_is_replaced_too(here):
    here.env["WHITEBOARD_SCORER_PROCESSES"] = "1"
    here.run("up")
    all_are_decided_once(*await under_load(here, "one", "deploy", "fraud"))
    assert list(sharing(here)) == ["scorer"]


async def test_a_killed_one_leaves_the_others_answering(here):
    here.env["WHITEBOARD_SCORER_PROCESSES"] = "2"
    here.run("up")
    config = here.settings()
    folder, name = shared_folder(here.home, SCORER.name), "scorer-1"
    killed = {p["name"]: p["pid"] for p in here.figures("status")["processes"]}[name]
    async with ScoringLoad(SCORER.url(config), "killed", CLIENTS, PAUSE_S) as load:
        await asyncio.sleep(1)
        os.kill(killed, signal.SIGKILL)
        end = time.monotonic() + 120
        while not (await asyncio.to_thread(ask_ready, folder, name) or {}).get("accepts"):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
    # Those that it had on their way; none that came later.
    assert len(load.failures) <= CLIENTS
    assert set((await decided(config, "killed")).values()) == {1}


async def test_a_build_that_does_not_start_changes_nothing(here):
    before = {p["name"]: p["pid"] for p in here.figures("status")["processes"]}
    here.env["WHITEBOARD_SCORER_PROCESSES"] = "2"
    broken = here.home / "scorer-2"
    outbox = broken / "outbox.jsonl"
    outbox.unlink(missing_ok=True)
    outbox.mkdir(parents=True)
    try:
        said = here.finished(["deploy", "fraud"], 600)
    finally:
        outbox.rmdir()
    assert said.returncode == 1
    assert "scorer-2" in said.stderr
    assert "Is a directory" in said.stderr
    after = {p["name"]: p["pid"] for p in here.figures("status")["processes"]}
    assert after == before
