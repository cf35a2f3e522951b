"""Commands that the page runs: how they end, and what they print meanwhile."""

import asyncio

import pytest

from services.cli import output
from services.walkthrough.answers import JobRequest
from services.walkthrough.jobs import Job, arguments, phase


def record(event):
    return {"said": "m:2", "record": {"event": event, "reasons": []}}


@pytest.mark.parametrize(
    ("code", "figures", "ended"),
    [
        (0, record("promoted"), "done"),
        (2, record("refused"), "refused"),
        (1, record("refused"), "failed"),
        (2, record("promoted"), "failed"),
        (2, {"said": "no labels", "record": None}, "failed"),
        (2, None, "failed"),
        (0, {"said": "already trained", "record": None}, "done"),
    ],
)
def test_only_what_the_gate_refused_is_refused(code, figures, ended):
    assert phase(code, figures) == ended


def test_a_swap_prints_its_shadow_and_a_rollback_its_record():
    swap = arguments(JobRequest(verb="swap", design="cv", candidate="tiny_vit"))
    assert swap == ["swap", "cv", "tiny_vit", "--watch", "--json"]
    assert arguments(JobRequest(verb="rollback", design="cv")) == ["rollback", "cv", "--json"]
    with pytest.raises(ValueError, match="candidate"):
        arguments(JobRequest(verb="swap", design="cv"))


async def test_a_command_that_exits_with_2_was_not_refused_by_a_gate():
    job = Job(JobRequest(verb="audit", design="cv"))
    await asyncio.wait([job.task])
    assert job.now().phase == "failed"
    assert "pixels" in job.now().output


async def ended(job):
    async with asyncio.timeout(60):
        await asyncio.wait([job.task])
    return job.now()


async def test_a_command_that_does_not_start_has_failed_with_its_reason(monkeypatch):
    async def fail(*_, **__):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    state = await ended(Job(JobRequest(verb="audit", design="cv")))
    assert (state.phase, state.output) == ("failed", "Cannot allocate memory")


async def test_a_command_that_is_stopped_before_it_started_stops():
    job = Job(JobRequest(verb="simulate", design="fraud", rate=10, seconds=600))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await job.stop()
    assert job.now().phase == "stopped"


async def test_a_line_that_is_too_long_fails_and_leaves_no_process(monkeypatch):
    endless = "import sys, time; sys.stderr.write('x' * (1 << 21)); sys.stderr.flush()"
    real = asyncio.create_subprocess_exec

    async def start(program, *_, **options):
        return await real(program, "-c", f"{endless}; time.sleep(600)", **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    job = Job(JobRequest(verb="audit", design="cv"))
    assert (await ended(job)).phase == "failed"
    async with asyncio.timeout(60):
        assert await job._process.wait() < 0


def test_costs_are_passed_with_all_their_digits():
    request = JobRequest(verb="costs", design="fraud", costs={"opex": 1234.567, "fee": 1234567.0})
    assert arguments(request)[3:] == ["--opex", "1234.567", "--fee", "1234567.0"]


def test_progress_is_lines_where_stderr_is_no_terminal(capsys, monkeypatch):
    clock = iter((0.0, 1.0, 9.0, 9.0, 12.0))
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    assert not output.err.is_terminal
    with output.bar("shadowing [live] decisions") as step:
        step(10, 500)
        step(40, 500)
    assert capsys.readouterr().err.splitlines() == [
        "shadowing [live] decisions",
        "shadowing [live] decisions: 40 of 500",
        "shadowing [live] decisions: 40 of 500, 12 s",
    ]
