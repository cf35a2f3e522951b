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
