"""The scheduler's commands and its running job while NATS refuses requests."""

import asyncio
import sys

import pytest

from services.platform.retraining import scheduler
from services.platform.retraining.commands import CONTROL, Command, control_subject
from services.platform.streaming.connection import ensure_stream
from tests.integration.conftest import until
from tests.streams import delete_stream

DURABLE = "scheduler-fraud"
# Writes when it begins and when it has ended by itself.
JOB = """import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.open("a").write(" ".join(sys.argv[2:]) + "\\n")
time.sleep(float(path.with_suffix(".seconds").read_text()))
path.open("a").write("done\\n")"""


@pytest.fixture
async def jobs(config, nc, tmp_path):
    """What the jobs of a scheduler have written; each takes some seconds."""
    js = nc.jetstream()
    await delete_stream(config, js, CONTROL)
    await ensure_stream(js, CONTROL, ["control.>"])
    path = tmp_path / "jobs.txt"
    path.touch()
    path.with_suffix(".seconds").write_text("0")
    program = [sys.executable, "-c", JOB, str(path)]
    running = asyncio.create_task(scheduler.main(config, program))
    yield path
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await delete_stream(config, js, CONTROL)


async def command(nc, **fields):
    data = Command(**fields).model_dump_json().encode()
    await nc.jetstream().publish(control_subject("fraud"), data)


def lines(path, word):
    return [line for line in path.read_text().splitlines() if word in line]


async def test_a_deleted_durable_ends_no_job_and_repeats_no_command(nc, jobs):
    await command(nc, verb="rollback", reason="why not")
    await until(lambda: lines(jobs, "done"))
    jobs.with_suffix(".seconds").write_text("10")
    await command(nc, verb="swap", candidate="gnn")
    await until(lambda: lines(jobs, "swap"))
    await nc.jetstream().delete_consumer(CONTROL, DURABLE)
    await command(nc, verb="swap", candidate="deepsets")
    await until(lambda: lines(jobs, "deepsets"), seconds=90.0)
    assert len(lines(jobs, "done")) == 2  # the job that ran then has ended by itself
    assert len(lines(jobs, "rollback")) == 1
    assert len(lines(jobs, "gnn")) == 1


async def test_a_deleted_stream_is_made_again(config, nc, jobs):
    await command(nc, verb="rollback", reason="why not")
    await until(lambda: lines(jobs, "done"))
    await delete_stream(config, nc.jetstream(), CONTROL)

    async def is_there():
        names = [info.config.name for info in await nc.jetstream().streams_info()]
        return CONTROL in names

    await until(is_there)
    await command(nc, verb="swap", candidate="gnn")
    await until(lambda: lines(jobs, "gnn"))
