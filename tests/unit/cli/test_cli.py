"""The command line: help, the walkthrough, and messages that say what to do."""

import json
import socket

import pytest
from typer.testing import CliRunner

from infra.local.engines import Process
from infra.local.supervisor import PortTaken, Supervisor
from services.cli.demo import verdict
from services.cli.main import app
from services.fraud.design import DESIGN
from services.platform.settings import Settings

COMMANDS = [command.name for command in app.registered_commands]
runner = CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = runner.invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"whiteboard {command}" in done.output


@pytest.mark.parametrize(("design", "last"), [("fraud", False), ("cv", True)])
def test_describe_tells_all_eight_steps(design, last):
    done = runner.invoke(app, ["describe", design, "--json"])
    steps = json.loads(done.output)["steps"]
    assert [s["number"] for s in steps] == list(range(1, 9))
    assert [s["built"] for s in steps] == [True] * 7 + [last]
    assert all(s["file"] and s["decision"] and s["why"] for s in steps if s["built"])
    assert all(s["decision"] == "not built yet" for s in steps if not s["built"])


def test_a_drift_that_there_is_not_is_named_with_those_that_there_are():
    done = runner.invoke(app, ["scorecard", "cv", "--drift", "rust"])
    assert done.exit_code == 2
    assert "'rust'" in done.output
    assert "new_defect" in done.output


def test_describe_quotes_what_was_measured():
    measured = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    steps = {s.title: s for s in DESIGN.steps(measured)}
    assert steps["Serving"].figure == "p50 1.0 ms, p95 2.0 ms, p99 3.0 ms"
    assert "not measured yet" in steps["Problem and KPI"].figure


def test_a_taken_port_is_named_with_the_setting_that_moves_it(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = Process("redis", ("true",), {"redis_port": port})
        with pytest.raises(PortTaken, match=f"port {port}.*WHITEBOARD_REDIS_PORT"):
            Supervisor(Settings(home=tmp_path)).start([process])


GOOD = {"p95_ms": 9.0, "mismatches": 0, "lost": 0, "failures": 0, "settled": True}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"p95_ms": 50.0}, "p95"),
        ({"p95_ms": float("nan")}, "p95"),
        ({"mismatches": 1}, "mismatches"),
        ({"lost": 2}, "lost"),
        ({"failures": 3}, "failures"),
        ({"settled": False}, "catch up"),
    ],
)
def test_the_demo_fails_when_a_figure_is_wrong(change, word):
    assert verdict(GOOD) == []
    [wrong] = verdict({**GOOD, **change})
    assert word in wrong


def test_unknown_names_are_answered_with_the_known_ones():
    done = runner.invoke(app, ["describe", "weather"])
    assert done.exit_code != 0
    assert "fraud" in done.output
