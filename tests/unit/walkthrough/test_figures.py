"""Figures from readings, requests as commands, and recordings."""

import re

import pytest
from pydantic import ValidationError

from services.designs import DESIGNS
from services.platform.diagram import Measure
from services.platform.settings import Settings
from services.walkthrough.answers import FaultReport, JobRequest
from services.walkthrough.board import Board
from services.walkthrough.code import candidates
from services.walkthrough.faults import _count
from services.walkthrough.figures import means, value
from services.walkthrough.jobs import arguments
from services.walkthrough.recording import page
from services.walkthrough.sources import Scrape
from tests.conformance.toy.design import TOY

RATE = Measure("answers", "scorer", "requests_total", labels={"status": "200"})


def reading(at, count, state="running", **more):
    samples = {"requests_total": [({"status": "200"}, count), ({"status": "500"}, 9.0)], **more}
    return Scrape(at, state, samples if state == "running" else {})


def test_a_rate_is_growth_a_second_and_survives_a_restart():
    assert value(RATE, [reading(0, 10), reading(2, 30)]) == 10
    assert value(RATE, [reading(0, 10), reading(2, 4)]) == 2
    assert value(RATE, [reading(0, 10)]) is None


@pytest.mark.parametrize("state", ["down", "hanging"])
def test_a_dead_source_tells_nothing(state):
    assert value(RATE, [reading(0, 10), reading(1, 20), reading(2, 0, state)]) is None


def test_a_gauge_is_scaled_and_labels_can_exclude():
    gauge = Measure("x", "s", "requests_total", "gauge", labels={"status": "!200"}, scale=2)
    assert value(gauge, [reading(0, 10)]) == 18


def timed(at, low, high):
    bounds = [({"le": "0.01"}, low), ({"le": "0.05"}, high), ({"le": "+Inf"}, high)]
    return reading(at, 0, took_bucket=bounds)


def test_p95_is_of_the_newest_observations():
    p95 = Measure("p95", "s", "took", "p95", "ms", scale=1e3)
    found = value(p95, [timed(0, 100.0, 100.0), timed(1, 100.0, 200.0)])
    assert found == pytest.approx(48)
    assert value(p95, [timed(0, 5.0, 5.0), timed(1, 5.0, 5.0)]) is None


def staged(at, **stages):
    samples = {"took_sum": [], "took_count": []}
    for name, (total, count) in stages.items():
        samples["took_sum"].append(({"stage": name}, total))
        samples["took_count"].append(({"stage": name}, count))
    return reading(at, 0, **samples)


def test_means_are_of_the_newest_observations_and_survive_a_restart():
    before = staged(0, read=(5.0, 10.0), idle=(1.0, 4.0))
    after = staged(1, read=(11.0, 13.0), idle=(1.0, 4.0))
    restarted = staged(2, read=(3.0, 3.0), idle=(0.0, 0.0))
    assert means("took", "stage", [before, after]) == {"read": 2.0}
    assert means("took", "stage", [before, after, restarted]) == {"read": 1.5}
    assert means("took", "stage", [after]) == {}


def test_a_fault_counts_answers_and_those_in_budget():
    def answers(count, quick):
        samples = [({"le": "0.05"}, quick), ({"le": "+Inf"}, count)]
        return reading(0, count, request_duration_seconds_bucket=samples)

    report = FaultReport(process="redis", kind="kill", phase="striking", expected="")
    _count(report, answers(100.0, 100.0), answers(200.0, 150.0), 0.05)
    _count(report, answers(200.0, 150.0), answers(300.0, 250.0), 0.05)
    assert (report.answers, report.failed, report.in_budget) == (200, 0, 0.75)


def test_requests_become_commands_and_nothing_else():
    request = JobRequest(verb="swap", design="fraud", candidate="deepsets")
    assert arguments(request) == ["swap", "fraud", "deepsets", "--watch", "--json"]
    with pytest.raises(ValueError, match="which one"):
        arguments(JobRequest(verb="swap", design="fraud"))
    for wrong in ({"verb": "down"}, {"drift": "blur=1; rm"}, {"candidate": "--help"}, {"rate": 0}):
        with pytest.raises(ValidationError):
            JobRequest(**{"verb": "simulate", "design": "fraud", **wrong})


@pytest.mark.parametrize("design", [*DESIGNS, TOY], ids=str)
def test_every_design_is_described_without_a_stack(design, tmp_path):
    board = Board(Settings(home=tmp_path), [design])
    [state] = board.describe().designs
    assert [step.number for step in state.steps] == list(range(1, 9))
    assert {box.id for box in state.boxes} == set(board.tick().designs[design.name].boxes)
    assert all(box.file.endswith(".py") and box.line for box in state.boxes if box.process)
    assert state.model_dump(by_alias=True)["arrows"][0].keys() >= {"from", "to", "rate"}


@pytest.mark.parametrize("design", [*DESIGNS, TOY], ids=str)
def test_candidates_are_read_from_their_files(design):
    known = design.retraining_spec().candidates.all()
    assert candidates(design.package) == {name: one.role for name, one in known.items()}


def test_a_recording_holds_the_page_and_no_markup_from_data():
    evil = "</script><img src=x onerror=alert(1)>"
    html = page({"designs": [{"title": evil}]}, [{"designs": {}}], "2026-11-27")
    assert evil not in html
    assert "\\u003c/script>" in html
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
