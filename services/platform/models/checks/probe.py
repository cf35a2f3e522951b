"""Load an unknown model in a process of its own first, where memory and time are bounded.

A file of a few bytes can ask for gigabytes once it runs. In the child it meets its limit, and the
process that serves keeps its model and never opens the file.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from services.platform.models.refused import ModelRefused

# Of address space beyond the libraries'. Our image models take 173 MB of it (a file of 13 MB, 2026-
# 11-27), our tabular ones 142 MB.
MEMORY_BYTES = 2**30
# Our models take 0.2 s of a core, and the imports 0.9 s.
CPU_S = 20
# On a busy machine the child waits for its core.
_WALL_S = 120.0
# As the workers have it: a request goes first.
_NICE = 10
_REFUSED = 3
_PROBE = "services.platform.models.checks.probe"


def refuse_greedy(data: bytes, read: Callable[[bytes], Any], passed: Path) -> None:
    """Read a model in a child process. Blocks for a second or two, most of it imports.

    Args:
        data: The file.
        read: What reads it here; a function of a module, since the child imports it.
        passed: Folder that names the files that passed here: they need no other probe.

    Raises:
        ModelRefused: it took too much memory or time, or `read` refused it.
    """
    mark = passed / sha256(data).hexdigest()
    if mark.exists():
        return
    _probe(data, read)
    # Where the home is read-only, each start probes.
    with suppress(OSError):
        passed.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _probe(data: bytes, read: Callable[[bytes], Any]) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", _PROBE, read.__module__, read.__name__],
            input=data, capture_output=True, timeout=_WALL_S, env=_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelRefused(f"its probe did not end within {_WALL_S:.0f} s") from None
    except OSError as error:
        raise ModelRefused(f"its probe did not start: {error}") from error
    if done.returncode == _REFUSED:
        raise ModelRefused(done.stdout.decode(errors="replace"))
    if done.returncode:
        raise ModelRefused(
            f"its probe ended with {done.returncode}: it may take {CPU_S} s of a core and "
            f"{MEMORY_BYTES // 2**20} MB. {done.stderr.decode(errors='replace')[-200:]}"
        )


def _environment() -> dict[str, str]:
    """Nothing of ours, and one thread: each thread reserves address space."""
    path = os.pathsep.join(sys.path)
    return {"PATH": os.defpath, "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip


def _limit() -> None:
    """Bound this process; nothing it starts or opens later has more."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, mapped + MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S + int(sum(os.times()[:2]))),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def main() -> None:
    """Read the model at standard input with the function `sys.argv[2]` of module `sys.argv[1]`."""
    module, name = sys.argv[1:]
    os.nice(_NICE)
    read = getattr(import_module(module), name)
    data = sys.stdin.buffer.read()
    _limit()
    try:
        read(data)
    except (ModelRefused, MemoryError) as error:
        print(str(error) or "not enough memory", end="")
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
