"""Running jobs: in a process each, or by a SuperLink and a SuperNode for each bank."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.privacy.job import Job
from services.platform.progress import ProgressBar

APP = Path(__file__).parents[2] / "privacy" / "app"
IN_PROCESS = "services.fraud.privacy.in_process"
EXECUTOR = "services.fraud.privacy.executor"
_AT_ONCE = 2  # processes, of a thread each
_PHASE = re.compile(r"phase (\d+) of (\d+)")

OnLine = Callable[[str], None]
# Runs a module of the banks' environment: (module, arguments, on_line).
RunModule = Callable[[str, Sequence[str], OnLine], None]


class RunningFederation(Protocol):
    """A SuperLink and its SuperNodes."""

    def run(self, app: Path, config: Mapping[str, Any], on_line: OnLine) -> int:
        """Run an app to its end. Returns the bytes received from the banks."""


# Starts one, given the configuration of each SuperNode by name.
StartFederation = Callable[
    [Mapping[str, Mapping[str, Any]]], AbstractContextManager[RunningFederation]
]


def run(
    todo: list[Job], request: FederationRequest, bar: ProgressBar, run_module: RunModule,
    start: StartFederation,
) -> dict[str, float]:  # fmt: skip
    """Run jobs; those of several banks as processes, unless everything is in one.

    Returns:
        By job's name, the bytes that left a bank, where a SuperLink counted them.
    """

    def is_local(job: Job) -> bool:
        return request.in_process or len(job.banks) == 1 or job.strategy == "histograms"

    _run_local(list(filter(is_local, todo)), bar, run_module)
    counted: dict[str, float] = {}
    remote = [job for job in todo if not is_local(job)]
    for taking_part, group in groupby(remote, key=lambda job: job.banks):
        nodes = {
            f"bank-{b.number}": {
                "bank": b.number,
                "data": str(b.folder.resolve()),
                "poison": b.poison,
            }
            for b in taking_part
        }
        with start(nodes) as federation:
            for job in group:
                with bar(job.name) as step:
                    config = {"job": str(job.write().resolve())}
                    counted[job.name] = federation.run(APP, config, progress(step)) / len(nodes)
    return counted


def _run_local(todo: list[Job], bar: ProgressBar, run_module: RunModule) -> None:
    """Run each job in a process of its own, `_AT_ONCE` at a time; a process has one thread."""
    with bar(f"training {len(todo)} models") as step, ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [
            pool.submit(run_module, IN_PROCESS, [str(job.write())], lambda _: None) for job in todo
        ]
        try:
            for done, one in enumerate(as_completed(running), start=1):
                one.result()
                step(done, len(todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def progress(step: Callable[[int, int], None]) -> OnLine:
    """Reads from a run's lines how far it is."""

    def read(line: str) -> None:
        if found := _PHASE.search(line):
            step(int(found[1]), int(found[2]))

    return read
