"""Processes that share a port: how many there are, and replacing them one after another.

A process more than usual stands in while each one ends and starts again, so there are never fewer
than before, and old and new ones answer side by side.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.engines import Program
from infra.local.supervisor import Supervisor
from services.platform.runtime.sharing.siblings import ask_ready, number_of, shared_folder

READY_S = 120.0
DRAIN_S = 30.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Change:
    """A process that started or ended.

    Attributes:
        process: Its name.
        what: started; drained: it ended when its last connection had; stopped: connections that
            were idle were closed.
        pid: Its process id.
        build: What it ran.
        model: What it decided by.
        seconds: Until it was ready, or had ended.
        requests: How many it had answered when it began to end.
    """

    process: str
    what: str
    pid: int
    build: str
    model: str
    seconds: float
    requests: int


class Rolling:
    """The processes of one service of one home."""

    def __init__(
        self,
        supervisor: Supervisor,
        home: Path,
        service: str,
        programs: Sequence[Program],
        drain_s: float = DRAIN_S,
    ) -> None:
        """Change nothing yet.

        Args:
            service: Its name.
            programs: All that runs in this home, with as many of the service as there may be.
            drain_s: How long a process waits for its connections to end.
        """
        self._supervisor, self._service, self._programs = supervisor, service, list(programs)
        self._folder, self._drain_s = shared_folder(home, service), drain_s

    def settle(self, count: int) -> list[Change]:
        """Have the first so many processes, all ready, and end those beyond.

        Raises:
            RuntimeError: one does not become ready.
        """
        states = self._supervisor.states()
        names = [name for number, name in self._numbered() if number < count]
        started = [self._start(name) for name in names if states.get(name) != "RUNNING"]
        for name in names:
            self._wait(name, lambda: False)
        beyond = [name for number, name in self._numbered() if number >= count and name in states]
        return [*started, *(self._end(name) for name in beyond)]

    def restart(self, count: int, step: Callable[[str], None]) -> list[Change]:
        """Replace so many processes, one after another.

        Args:
            step: Called with what happens next.

        Raises:
            RuntimeError: one does not become ready. Those that answered go on.
        """
        changes = self.settle(count)
        spare = next(name for number, name in self._numbered() if number == count)
        step(f"starting {spare}")
        changes.append(self._start(spare))
        for name in [name for number, name in self._numbered() if number < count]:
            step(f"draining {name}")
            changes.append(self._end(name))
            step(f"starting {name}")
            changes.append(self._start(name))
        step(f"draining {spare}")
        changes.append(self._end(spare))
        return changes

    def _numbered(self) -> list[tuple[int, str]]:
        """The service's processes in order: of the programs, and others that run."""
        names = {program.name for program in self._programs} | set(self._supervisor.states())
        numbers = ((number_of(name, self._service), name) for name in names)
        return sorted((number, name) for number, name in numbers if number is not None)

    def _start(self, name: str) -> Change:
        begin = time.monotonic()
        try:
            self._supervisor.start(self._programs, name)
            pid = self._supervisor.pids().get(name)
            state = self._wait(name, lambda: self._supervisor.pids().get(name) != pid)
        except RuntimeError:
            self._supervisor.remove(name)
            raise
        return self._change(name, "started", state, begin)

    def _wait(self, name: str, has_ended: Callable[[], bool]) -> dict[str, Any]:
        """What a process says once it is ready. RuntimeError if it does not become so."""
        end, state = time.monotonic() + READY_S, None
        while time.monotonic() < end and not has_ended():
            state = ask_ready(self._folder, name)
            if state is not None and not any(value is False for value in state.values()):
                return state
            time.sleep(_LOOK_S)
        missing = [k for k, v in (state or {"answer": False}).items() if v is False]
        raise RuntimeError(
            f"{name} does not become ready (missing: {', '.join(missing)}); others answer as "
            f"before. The end of its log:\n{self._supervisor.log_tail(name)}"
        )

    def _end(self, name: str) -> Change:
        state, begin = ask_ready(self._folder, name) or {}, time.monotonic()
        pid = self._supervisor.pids().get(name, 0)
        drained = pid and self._supervisor.drain(name, self._drain_s)
        self._supervisor.remove(name)
        return self._change(name, "drained" if drained else "stopped", {**state, "pid": pid}, begin)

    def _change(self, name: str, what: str, state: dict[str, Any], begin: float) -> Change:
        return Change(
            name,
            what,
            int(state.get("pid") or self._supervisor.pids().get(name, 0)),
            str(state.get("build", "")),
            str(state.get("model", "")),
            round(time.monotonic() - begin, 2),
            int(state.get("requests", 0)),
        )
