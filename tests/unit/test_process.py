"""What a process of the background may have of the machine."""

import os
import subprocess
import sys

ASK = "from services.skeleton.process import give_way, training_threads as threads;"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def told(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_gives_way_trains_on_half_the_cores_and_so_do_its_children():
    ask = f"{ASK} print(threads())"
    assert told(ask) == str(os.cpu_count())
    half = str(max(os.cpu_count() // 2, 1))
    assert told(f"{ASK} give_way(); print(threads())") == half
    assert told(f"{ASK} give_way(); {CHILD}", ask) == half
