"""What a process of the background may have of the machine."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import yaml

from infra.local.engines import engines
from services.cli.stack import services
from services.platform.design import LAST, NEXT
from services.platform.runtime.worker import end
from services.platform.settings import Settings

THREADS = "from services.platform.runtime.worker import training_threads; print(training_threads())"


def told(code, nice):
    command = ["nice", "-n", str(nice), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_a_training_in_the_background_leaves_cores_to_others():
    assert told(THREADS, 0) == str(os.cpu_count())
    assert told(THREADS, 10) == str(max(os.cpu_count() // 2, 1))


def test_a_process_that_stands_aside_is_of_the_idle_class_with_its_children():
    child = "import os; print(os.sched_getscheduler(0) == os.SCHED_IDLE)"
    code = f"""import os, subprocess, sys
from services.platform.runtime.worker import stand_aside
stand_aside(os.getpid())
subprocess.run([sys.executable, "-c", {child!r}], check=True)"""
    assert told(code, 0) == "True"


def test_containers_have_the_turns_that_processes_have(tmp_path):
    config = Settings(home=tmp_path)
    nice = {one.name: one.nice for one in [*engines(config), *services(config)]}
    assert [name for name, turn in nice.items() if not turn] == ["redis", "scorer", "inspector"]
    # The kernel's weight of a niceness: 1024 of none, a tenth, a hundredth and a half.
    shares = {0: 1024, NEXT: 110, LAST: 15}
    containers = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    for name, turn in nice.items():
        assert containers[name].get("cpu_shares", 1024) == shares[turn], name


async def test_a_task_that_lost_its_cancellation_is_ended_all_the_same():
    """As one whose answer arrives in the same turn does, before Python 3.12."""

    async def deaf_once():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    deaf, done = asyncio.create_task(deaf_once()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(end(deaf, done), timeout=10)
    assert deaf.cancelled()
    assert done.done()


def test_a_worker_told_to_stop_stops_even_if_its_work_does_not_hear_it_at_once():
    code = """import asyncio, os, signal
from services.platform.runtime.worker import _until_told

async def main():
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)

asyncio.run(_until_told(main))
print("stopped")"""
    assert told(code, 0) == "stopped"
