"""The backfill on Spark against the embedded one: bytes, a kill, a standalone master."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from redis import Redis

from features.online.table import OnlineTable
from features.state_log import log_folder
from infra.local.engines import environment
from services.fraud.features import worker as feature_worker
from services.fraud.features.ownership.handover import OFFERS_FOLDER, OnlineRecord, pending
from services.fraud.features.spark.backfill import fold_on_spark
from services.fraud.features.spark.comparison import compare
from services.fraud.features.spark.request import SparkRequest, java
from services.fraud.features.states import DEVICE, STATES
from services.fraud.ingestion.events import STREAM
from services.fraud.ingestion.tables import LABELS_TABLE, STATE_LOG, TRANSACTIONS_TABLE
from services.fraud.simulator.bootstrap import create_streams
from services.platform.storage.lake import Lake
from tests.identical import assert_identical
from tests.streams import delete_stream

MISSING = "PySpark" if find_spec("pyspark") is None else "Java" if java() is None else ""
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING} here: `make spark-setup`")
COMMAND = (sys.executable, "-m", "services.cli.main", "backfill", "fraud", "--engine", "spark")


@pytest.fixture
async def lake(config, nc, simulated):
    """The simulated days in the lake, a batch of them twice, and a stream that begins behind."""
    await delete_stream(config, nc.jetstream(), STREAM)
    await create_streams(nc.jetstream(), simulated.last_seq)
    made = Lake(config)
    half = len(simulated.transactions) // 2
    made.write(TRANSACTIONS_TABLE, simulated.transactions.slice(0, half + 500), "history-0")
    made.write(TRANSACTIONS_TABLE, simulated.transactions.slice(half), "history-1")
    made.write(LABELS_TABLE, simulated.labels, "history-0")
    return made


def no_bar(_):
    from contextlib import nullcontext

    return nullcontext(lambda *_: None)


def run(*arguments):
    """What the command prints, as JSON."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], capture_output=True, text=True, env=environment(),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
async def test_rows_and_log_are_those_of_the_embedded_backfill(
    config, lake, simulated, monkeypatch
):
    """All of the log: nothing is warmed up. A row that is then spoiled is found."""
    from services.fraud.features import lake_fold
    from services.fraud.features.spark import backfill

    for module in (lake_fold, backfill):
        monkeypatch.setattr(module, "WARM_UP_DAYS", -100)
    request = SparkRequest("local[2]", 512, shards=3)
    folded = await asyncio.to_thread(
        fold_on_spark, config, request, lake, simulated.last_seq, no_bar
    )
    assert folded.events == len(simulated.events)
    assert folded.entities == {s.name: len(simulated.states[s.name].keys) for s in STATES}
    found = compare(lake, simulated.last_seq, folded, True, lambda *_: None)
    events_with_rows = sum((done.rows >= 0).sum() for done in simulated.states.values())
    assert (found.mismatches, found.logged) == (0, events_with_rows)
    assert found.entities == sum(folded.entities.values())

    # The comparison notices a row and a log file that are gone.
    lake.filesystem.delete_file(lake.files(folded.offer.table(DEVICE))[0])
    lake.filesystem.delete_file(lake.files(f"{STATE_LOG}/{log_folder(DEVICE)}")[0])
    spoiled = compare(lake, simulated.last_seq, folded, True, lambda *_: None)
    assert spoiled.mismatches > 2
    assert (spoiled.entities, spoiled.logged) == (found.entities, found.logged)


@pytest.mark.e2e
async def test_killed_and_started_again_it_completes(config, lake, simulated, worker):
    """The command: killed in its first job; then the rows are compared, offered and taken."""
    worker("fraud", "feature-worker")
    killed = subprocess.Popen([*COMMAND, "--memory-mb", "512"], env=environment(),
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not lake.files(OFFERS_FOLDER):
        assert killed.poll() is None
        await asyncio.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    found = await asyncio.to_thread(run, "--memory-mb", "512", "--compare")
    assert (found["engine"], found["mismatches"]) == ("spark", 0)
    assert found["events"] == len(simulated.events)
    assert found["seconds"] > 0
    assert found["peak_mb"] > 300
    assert not lake.files(OFFERS_FOLDER)  # taken, and the rows of the killed run removed
    for state in STATES:
        files = lake.files(f"{STATE_LOG}/{log_folder(state)}")
        assert len({file.rsplit("/", 1)[1].split("-")[1] for file in files}) == 1
    with Redis.from_url(config.redis) as redis:
        assert pending(OnlineRecord(redis).read(), STATES, feature_worker.NAME) is None
        for state in STATES:
            done = simulated.states[state.name]
            rows = OnlineTable(redis, state).load(done.keys)
            assert_identical(rows, done.table)


@pytest.mark.e2e
async def test_on_a_standalone_master(config, lake, simulated):
    """A master and a worker of Spark's own on this machine, as two more JVMs."""
    import pyspark

    spark_class = os.path.join(os.path.dirname(pyspark.__file__), "bin", "spark-class")
    deploy = "org.apache.spark.deploy"
    port = str(config.metrics_port + 33)
    place = {**environment(), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(config.home)}
    master = f"spark://127.0.0.1:{port}"
    started = [
        subprocess.Popen([spark_class, f"{deploy}.{kind}", *arguments], env=place,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for kind, arguments in (
            ("master.Master", ["--host", "127.0.0.1", "--port", port, "--webui-port", "0"]),
            ("worker.Worker", ["--host", "127.0.0.1", "--webui-port", "0", "-m", "1g", "-c", "2",
                               "-d", str(config.home / "spark-worker"), master]),
        )
    ]  # fmt: skip
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            done = await asyncio.to_thread(
                subprocess.run, [*COMMAND, "--master", master, "--memory-mb", "512", "--compare",
                "--conf", "spark.driver.host=127.0.0.1", "--no-wait", "--json"],
                capture_output=True, text=True, env=environment(), check=False,
            )  # fmt: skip
            if "no Spark master answers" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["master"], found["mismatches"]) == (master, 0)
        assert found["events"] == len(simulated.events)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
