"""What a process of the background may have of the machine."""

import os
import subprocess
import sys

THREADS = "from services.skeleton.process import training_threads; print(training_threads())"


def told(code, nice):
    command = ["nice", "-n", str(nice), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_training_in_the_background_leaves_cores_to_others():
    assert told(THREADS, 0) == str(os.cpu_count())
    assert told(THREADS, 10) == str(max(os.cpu_count() // 2, 1))


def test_a_process_that_stands_aside_is_of_the_idle_class_with_its_children():
    child = "import os; print(os.sched_getscheduler(0) == os.SCHED_IDLE)"
    code = f"""import os, subprocess, sys
from services.skeleton.process import stand_aside
stand_aside(os.getpid())
subprocess.run([sys.executable, "-c", {child!r}], check=True)"""
    assert told(code, 0) == "True"
