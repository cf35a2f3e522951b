"""`python -m services.platform.run`: any process of any design, by name."""

import subprocess
import sys

import pytest

from services.designs import DESIGNS
from services.platform.design import SCHEDULER
from services.platform.run import SHARED, find, start
from services.platform.settings import Settings

pytestmark = pytest.mark.usefixtures("default_environment")

WORKERS = [process for design in DESIGNS for process in design.processes] + [SCHEDULER]
# What only training and HTTP services need.
HEAVY = ("fastapi", "torch", "feast", "mlflow", "xgboost", "matplotlib", "timm", "typer")


def run(*arguments):
    command = [sys.executable, "-m", "services.platform.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_is_found_by_design_and_name():
    config = Settings()
    assert find(config, "fraud", "feature-worker").port(config) == config.metrics_port
    assert find(config, "cv", "inspector").port(config) == 18081
    assert find(config, SHARED, "scheduler") is SCHEDULER


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["weather", "worker"], "no design 'weather': choose from fraud, cv, shared"),
        (["fraud", "painter"], "no process 'painter': choose from scorer, feature-worker"),
        (["fraud", "lake-writer", "--shard", "3"], "lake-writer takes no arguments: --shard 3"),
        (
            ["fraud", "feature-worker", "--worker", "16"],
            "--worker 16: from 0, and fewer than 16 shards",
        ),
        (["fraud", "feature-worker", "--workers", "17"], "choose 1 to 16, one per shard at most"),
        (["fraud", "feature-worker", "--workers", "5", "--at-most", "4"], "choose 1 to 4"),
        (["fraud", "feature-worker", "--workers", "many"], "invalid int value: 'many'"),
        (["shared", "scheduler"], "which program runs the jobs"),
    ],
)
def test_a_wrong_command_line_is_answered_before_anything_starts(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_workers_own_arguments_become_its_options(monkeypatch):
    seen = {}
    worker = find(Settings(), "fraud", "feature-worker")

    async def nothing():
        pass

    def main(config, **options):
        seen.update(options)
        return nothing()

    def run_worker(config, port, body):
        seen["port"] = port
        body().close()

    monkeypatch.setattr("services.fraud.features.worker.main", main)
    monkeypatch.setattr("services.platform.runtime.worker.run_worker", run_worker)
    start(Settings(), worker, ["--worker", "2", "--workers", "3"], 9)
    assert seen == {"worker": 2, "workers": 3, "port": 9}


@pytest.mark.slow
@pytest.mark.parametrize("worker", WORKERS, ids=lambda worker: worker.name)
def test_a_worker_imports_no_library_of_training_or_http(worker):
    code = f"""import importlib, sys
import services.designs, services.platform.run
importlib.import_module({worker.module!r})
print([name for name in {HEAVY!r} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
