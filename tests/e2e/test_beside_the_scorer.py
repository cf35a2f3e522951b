"""What stands beside the scorer fails under traffic: answers go on, and nothing is lost."""

import json
import time

import orjson
import pytest
from nats.js.errors import NotFoundError

from services.fraud.ingestion.events import VERDICT, VERDICTS_STREAM
from services.fraud.reasons.report import fetch
from services.fraud.service import SCORER
from services.platform.streaming.connection import connect
from tests.e2e.scoring_load import decisions
from tests.e2e.test_demo import Installation, metric, settled_audit

pytestmark = pytest.mark.e2e
RATE, SECONDS = 100, 16
# An open case gets its default after twice the bound of the queue.
SETTLED_S = 90


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    made = Installation(tmp_path_factory.mktemp("beside"))
    made.env["WHITEBOARD_DESIGNS"] = "tests.e2e.fraud_alone"
    made.run("up", "--days", "40")
    yield made
    made.run("down")


def traffic(here, *fault):
    """Simulated traffic with a command run in it. Returns the figures of the traffic."""
    command = ("simulate", "fraud", "--rate", str(RATE), "--seconds", str(SECONDS), "--json")
    running = here.flowing(*command)
    here.run(*fault)
    found = json.loads(running.communicate(timeout=120)[0])
    assert (found["failures"], found["requests"]) == (0, RATE * SECONDS)
    # Commands that start take both cores: some reads of Redis miss their 20 ms.
    assert found["degraded"] < 30
    return found


async def flagged(config):
    """(decline or review, decision id) of all decisions that were not approved."""
    events = [orjson.loads(data) async for data in decisions(config)]
    return [(e["decision"], e["decision_id"]) for e in events if e["decision"] != "approve"]


async def unfinished(config):
    """Decisions that have no reasons, and reviews that have no verdict."""
    found = await flagged(config)
    nc = await connect(config, "test")
    try:
        js = nc.jetstream()
        missing = [identity for _, identity in found if await fetch(js, identity) is None]
        for decision, identity in found:
            if decision == "review":
                try:
                    await js.get_last_msg(VERDICTS_STREAM, f"{VERDICT}.{identity}")
                except NotFoundError:
                    missing.append(identity)
        return found, missing
    finally:
        await nc.close()


@pytest.mark.parametrize(
    ("process", "options"),
    [
        ("reasons", ["--kind", "kill"]),
        ("reasons", ["--kind", "hang", "--seconds", "6"]),
        ("review-desk", ["--kind", "kill"]),
        ("review-desk", ["--seconds", "6"]),
        ("analysts", ["--kind", "kill"]),
        ("analysts", ["--kind", "hang", "--seconds", "8"]),
    ],
)
async def test_a_fault_fails_no_request_and_loses_no_case_and_no_reasons(here, process, options):
    traffic(here, "fault", process, *options)
    end = time.monotonic() + SETTLED_S
    while True:
        found, missing = await unfinished(here.settings())
        if not missing or time.monotonic() > end:
            break
        time.sleep(2)
    assert found
    assert missing == []


def test_a_poisoned_set_of_rules_is_refused_by_the_scorer(here, tmp_path):
    url = f"{SCORER.url(here.settings())}/metrics"
    before = metric(url, "rules_refused_total")
    sets = tmp_path / "rules.yaml"
    sets.write_text(
        "rules:\n- {id: wrong, when: no_feature > 1.0, action: decline, reason: r, owner: tests}\n"
    )
    traffic(here, "rules", "fraud", "publish", str(sets), "--unchecked")
    assert metric(url, "rules_refused_total") > before
    assert "no_feature" in here.figures("status")["scorer"]["rules_refused"]
    assert settled_audit(here)["mismatches"] == 0
