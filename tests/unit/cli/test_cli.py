"""The command line: help, the walkthrough, and messages that say what to do."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from infra.local.engines import Program
from infra.local.supervisor import PortTaken, Supervisor
from services.cli.damage import read_time
from services.cli.lifecycle import _ignore_sklearn_warnings
from services.cli.main import COMMANDS, app
from services.fraud.design import FRAUD
from services.fraud.evaluation.live import demo_failures
from services.platform.settings import Settings

# What takes long to import; no command needs it to show help or what runs.
HEAVY = (
    "numpy",
    "pandas",
    "pyarrow",
    "torch",
    "feast",
    "mlflow",
    "fastapi",
    "onnxruntime",
    "numba",
)
runner = CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = runner.invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"whiteboard {command}" in done.output


def test_the_list_of_commands_has_each_with_its_first_sentence():
    listed = runner.invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for command in COMMANDS:
        shown = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        sentence = next(line for line in shown.splitlines()[2:] if line.strip()).strip()
        assert any(sentence[:40] in line and f" {command} " in line for line in listed.splitlines())


def test_a_damaged_model_of_the_edge_and_a_file_for_a_folder_are_named(tmp_path):
    (tmp_path / "cv-int8.onnx").write_bytes(b"junk")
    folder = str(tmp_path)
    done = runner.invoke(app, ["edge", "run", "cv", "--images", folder, "--store", folder])
    assert done.exit_code == 1
    assert "build it again" in " ".join(done.output.split())
    (tmp_path / "file").touch()
    done = runner.invoke(app, ["suspects", "cv", "--data", str(tmp_path / "file")])
    assert done.exit_code == 1
    assert "is no folder of images" in " ".join(done.output.split())


def test_a_misspelt_command_is_answered_with_the_nearest():
    done = runner.invoke(app, ["stats"])
    assert done.exit_code == 2
    assert "Did you mean 'status'" in done.output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status", "--json"], ["describe", "fraud"], ["history", "cv"]]
)
def test_what_answers_at_once_imports_no_heavy_library(arguments, tmp_path):
    code = f"""import sys
sys.argv[1:] = {arguments!r}
from services.cli.main import COMMANDS, app
try:
    app()
except SystemExit:
    pass
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])"""
    environment = {"WHITEBOARD_HOME": str(tmp_path), "WHITEBOARD_NATS_PORT": "9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_status_and_down_name_the_home_they_looked_at(tmp_path):
    home = tmp_path / "größe [b] 50%"
    environment = {"WHITEBOARD_HOME": home.name, "WHITEBOARD_NATS_PORT": "9"}
    command = [sys.executable, "-m", "services.cli.main"]

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )

    assert json.loads(run("status", "--json").stdout)["home"] == str(home)
    assert f"nothing is running in {home}:" in run("status").stdout
    # Wrapped at spaces.
    assert "".join(str(home).split()) in "".join(run("down").stderr.split())


def test_wrong_settings_are_named_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "status"],
        env={"WHITEBOARD_REDIS_PORT": "many", "WHITEBOARD_USER": "a b"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "WHITEBOARD_REDIS_PORT" in done.stderr
    assert "WHITEBOARD_USER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("design", ["fraud", "cv"])
def test_describe_shows_all_eight_steps(design):
    done = runner.invoke(app, ["describe", design, "--json"])
    steps = json.loads(done.output)["steps"]
    assert [s["number"] for s in steps] == list(range(1, 9))
    assert all(s["built"] for s in steps[:7])
    assert all(s["file"] and s["decision"] and s["why"] for s in steps if s["built"])
    assert all(s["decision"] == "not built yet" for s in steps if not s["built"])


def test_describe_quotes_what_was_measured():
    measured = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    steps = {s.title: s for s in FRAUD.steps(measured)}
    assert steps["Serving"].figure == "p50 1.0 ms, p95 2.0 ms, p99 3.0 ms"
    assert "not measured yet" in steps["Problem and KPI"].figure
    # A demo in which nothing was answered has no latency.
    nothing = {s.title: s for s in FRAUD.steps(dict.fromkeys(measured))}
    assert "not measured yet" in nothing["Serving"].figure


def test_an_unknown_drift_is_answered_with_the_known_ones():
    done = runner.invoke(app, ["scorecard", "cv", "--drift", "rust"])
    assert done.exit_code == 2
    assert "'rust'" in done.output
    assert "new_defect" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["describe", "weather"], "fraud"),
        (["audit", "cv"], "pixels"),
        (["drill", "cv"], "night cv"),
        (["drill", "fraud", "--attempts", "--selective-labels"], "choose one"),
        (["drill", "fraud", "--offline"], "goes with --without-features"),
        (["reconcile", "fraud"], "fraud has no reconcile"),
        (["evaluate", "cv", "--file", ".", "--protocol", "x"], "magnetic_tile"),
        (["fault", "redis", "--seconds", "inf"], "'--seconds': inf is not finite"),
        (["plan", "fraud", "--images", "nan"], "'--images': nan is not finite"),
    ],
)
def test_a_wrong_argument_is_answered_with_what_there_is(arguments, words):
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_another_designs_protocol_is_refused():
    arguments = ["evaluate", "cv", "--file", ".", "--protocol", "handbook"]
    assert runner.invoke(app, arguments).exit_code == 1


def test_a_data_set_that_is_not_here_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["evaluate", "cv"])
    assert done.exit_code == 1
    assert "no data set magnetic_tile" in done.output


def test_bench_looks_for_wrk_before_any_set_up(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = runner.invoke(app, ["bench", "score"])
    assert done.exit_code == 1
    assert "wrk is not installed" in done.stderr


def test_scikit_learns_warnings_stay_out_of_the_terminal():
    with warnings.catch_warnings(record=True) as seen:
        _ignore_sklearn_warnings()
        warnings.warn_explicit("x", DeprecationWarning, "x.py", 1, module="sklearn.metrics")
    assert seen == []


def test_a_taken_port_is_named_with_the_setting_that_moves_it(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        program = Program("redis", ("true",), {"redis_port": port})
        with pytest.raises(PortTaken, match=f"port {port}.*WHITEBOARD_REDIS_PORT"):
            Supervisor(Settings(home=tmp_path)).start([program])


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
    assert demo_failures(GOOD) == []
    [wrong] = demo_failures({**GOOD, **change})
    assert word in wrong


def test_a_swap_that_is_ended_ends_its_shadow_mode(tmp_path):
    """The page's Stop sends SIGTERM; a second one must not cut the ending short."""
    done = tmp_path / "ended"
    code = f"""import asyncio, contextlib, os, pathlib, signal
from types import SimpleNamespace
from services.cli.lifecycle import challenge
from services.platform.retraining import challenge as retraining
from services.platform.runtime import worker
from services.platform.settings import settings

class Lifecycle:
    def __init__(self, *_): pass
    async def champion(self): return 1
    async def start_shadow(self, version): pass
    async def stop_shadow(self):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        pathlib.Path({str(done)!r}).touch()

async def wait():
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)

worker.lower_priority = lambda _: None  # a busy machine would starve it
retraining.ModelLifecycle = Lifecycle
retraining.measure_shadow = lambda *_: asyncio.run(wait())
spec = SimpleNamespace(design="fraud", model=lambda *_: None)
traffic = SimpleNamespace(source=contextlib.nullcontext)
design = SimpleNamespace(retraining_spec=lambda: spec)
challenge(design, lambda s: retraining.challenge(s, settings(), 2, None, traffic), False)"""
    environment = {**os.environ, "WHITEBOARD_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM
    assert done.exists()


def test_damage_asks_for_a_time_of_an_hour_at_most():
    for since, until in (("2h", "0s"), ("1m", "1m"), ("1m", "5m")):
        done = runner.invoke(app, ["damage", "fraud", "--since", since, "--until", until])
        assert done.exit_code == 2
        assert "at most an hour" in " ".join(done.output.split())
    done = runner.invoke(app, ["damage", "fraud", "--since", "yesterday"])
    assert done.exit_code == 2
    assert "yesterday" in done.output


def test_damage_reads_times_with_and_without_a_zone():
    now = datetime(2026, 11, 29, 10, tzinfo=UTC)
    assert read_time("90s", now) == now - timedelta(seconds=90)
    assert read_time("2026-11-29T11:00:00+01:00", now) == now
    assert read_time("2026-11-29T10:00:00", now).utcoffset() == timedelta(0)
