"""How workers share the machine, and how they stop."""

import subprocess
import sys
from pathlib import Path

import yaml

from infra.local.engines import engines
from services.cli.programs import programs
from services.designs import DESIGNS
from services.platform.design import DEFERRABLE_NICE, WORKER_NICE
from services.platform.settings import Settings


def output_of(code, nice):
    command = ["nice", "-n", str(nice), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_lower_priority_puts_a_process_and_its_children_into_the_idle_class():
    child = "import os; print(os.sched_getscheduler(0) == os.SCHED_IDLE)"
    code = f"""import os, subprocess, sys
from services.platform.runtime.worker import lower_priority
lower_priority(os.getpid())
subprocess.run([sys.executable, "-c", {child!r}], check=True)"""
    assert output_of(code, 0) == "True"


def test_containers_have_the_priorities_of_processes(tmp_path):
    config = Settings(home=tmp_path)
    nice = {one.name: one.nice for one in [*engines(config), *programs(config, DESIGNS)]}
    assert [name for name, value in nice.items() if not value] == ["redis", "scorer", "inspector"]
    # The kernel's weight of a niceness: 1024 of none, a tenth, a hundredth and a half.
    shares = {0: 1024, WORKER_NICE: 110, DEFERRABLE_NICE: 15}
    containers = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    for name, value in nice.items():
        assert containers[name].get("cpu_shares", 1024) == shares[value], name


def test_a_worker_stops_on_a_signal_even_if_its_task_ignores_the_first_cancellation():
    code = """import asyncio, os, signal
from services.platform.runtime.worker import _run_until_signal

async def main():
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)

asyncio.run(_run_until_signal(main))
print("stopped")"""
    assert output_of(code, 0) == "stopped"
