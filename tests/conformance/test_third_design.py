"""A third design is its folder and one name: commands, processes, shadow mode and gate serve it."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import nullcontext

import numpy as np
import pytest

from infra.local.engines import environment, free_port
from services.platform.models.names import served_path
from services.platform.streaming.connection import connect, ensure_stream
from tests.conformance.toy.design import TOY
from tests.conformance.toy.ingestion import DECISION, DECISIONS_STREAM
from tests.streams import delete_stream

pytestmark = pytest.mark.slow

REGISTRY = {"WHITEBOARD_DESIGNS": "tests.conformance.registry"}


def whiteboard(*arguments, **changes):
    command = [sys.executable, "-m", "services.cli.main", *arguments]
    env = {**environment(), **REGISTRY, **changes}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_describe_shows_its_steps():
    done = whiteboard("describe", "toy", "--json")
    found = json.loads(done.stdout)
    assert found["title"] == "Parcels by weight"
    assert [step["built"] for step in found["steps"]] == [True] * 8
    assert found["steps"][7]["file"] == "tests/conformance/toy/edge/"


def test_status_and_messages_name_it(tmp_path):
    nowhere = {"WHITEBOARD_HOME": str(tmp_path), "WHITEBOARD_NATS_PORT": "9"}
    found = json.loads(whiteboard("status", "--json", **nowhere).stdout)
    assert found["toy_service"] == {}
    assert found["urls"]["toy_service"] == "http://127.0.0.1:18089/docs"
    assert "toy has no audit" in whiteboard("audit", "toy").stderr
    assert "'toy'" in whiteboard("describe", "weather").stderr


def test_up_would_start_its_processes():
    code = """from services.cli.options import DESIGNS
from services.cli.programs import programs
from services.platform.settings import settings
for program in programs(settings(), DESIGNS.values()):
    print(program.name, *program.ports.values(), *program.command[2:])"""
    command = [sys.executable, "-c", code]
    env = {**environment(), **REGISTRY, "WHITEBOARD_TOY_SERVICE_PORT": "18091",
           "WHITEBOARD_METRICS_PORT": "18100"}  # fmt: skip
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "toy_service 18091 services.platform.run toy toy_service" in lines
    assert "toy-shadow 18109 services.platform.run toy toy-shadow" in lines


@pytest.fixture
def processes(config):
    """Its service and its worker, as `up` starts them. Yields the service's URL."""
    port = free_port()
    env = {**environment(), **REGISTRY, "WHITEBOARD_TOY_SERVICE_PORT": str(port)}
    log = (config.home / "toy.log").open("ab")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "services.platform.run", "toy", process.name],
            env=env, stdout=log, stderr=log,
        )
        for process in TOY.everything
    ]  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    for process in running:
        process.terminate()
        process.wait(60)  # it runs at idle priority beside the other tests
    log.close()


def answers(url):
    """The body of a 200, None of anything else."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return json.load(answer)
    except (OSError, urllib.error.HTTPError):
        return None


def bar(title):
    return nullcontext(lambda done, of: None)


async def publish(nc, first, count):
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        event = {"decision_id": f"p{number}", "at": 1.7e9, "weight": rng.uniform(1, 60)}
        await nc.jetstream().publish(f"{DECISION}.0", json.dumps(event).encode())


async def test_it_is_served_shadowed_and_decided_on_by_the_gate(config, processes):
    from services.platform.retraining.challenge import challenge, promote_without_gate
    from services.platform.retraining.spec import ShadowTraffic
    from services.platform.storage.lake import Lake

    nc = await connect(config, "test")
    await delete_stream(config, nc.jetstream(), DECISIONS_STREAM)
    await ensure_stream(nc.jetstream(), DECISIONS_STREAM, [f"{DECISION}.>"])
    champion = await asyncio.to_thread(TOY.train, config, "limit", 0, bar, None)
    await asyncio.to_thread(promote_without_gate, config, champion, "the first champion")
    assert Lake(config).exists(served_path("toy"))
    challenger = await asyncio.to_thread(TOY.train, config, "limit", 1, bar, None)

    end = time.monotonic() + 30
    while await asyncio.to_thread(answers, f"{processes}/healthz") is None:
        assert time.monotonic() < end, "its service does not answer"
        await asyncio.sleep(0.1)

    done = asyncio.create_task(
        asyncio.to_thread(
            challenge, TOY.retraining_spec(), config, challenger.card.version, bar, ShadowTraffic()
        )
    )
    first = 0
    while not done.done():
        await publish(nc, first, 50)
        first += 50
        await asyncio.sleep(0.2)
    record = (await done).record
    assert record.event == "promoted", record.reasons
    assert record.model == challenger.card.label
    await nc.close()
