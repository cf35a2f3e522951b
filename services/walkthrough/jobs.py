"""Commands that the page runs: the same `whiteboard` that a terminal runs, one at a time a verb."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from infra.local.engines import environment
from services.platform.models.promotion_log import PromotionEvent
from services.walkthrough.answers import JobRequest, JobState

_LINES = 40
_STOP_S = 10.0
# The longest line of a command that is read, bytes.
_MAX_LINE = 1 << 20
# Exit code of a command whose challenger the gate refused; of a wrong argument too.
_REFUSED = 2

# By verb, the arguments behind `whiteboard VERB DESIGN`.
_ARGUMENTS: dict[str, Callable[[JobRequest], list[str]]] = {
    "simulate": lambda r: [
        "--rate", str(r.rate), "--seconds", str(r.seconds), "--json",
        *(["--drift", r.drift] if r.drift else []),
    ],
    "load": lambda r: [
        "--rate", str(r.rate), "--duration", str(r.seconds), "--json",
        *(["--knee"] if r.knee else []),
    ],
    "swap": lambda r: [r.candidate or "", "--watch", "--json"],
    "rollback": lambda r: ["--json"],
    "night": lambda r: ["--json"],
    "audit": lambda r: ["--json"],
    "costs": lambda r: ["--json", *_costs(r)],
}  # fmt: skip


def _costs(request: JobRequest) -> list[str]:
    options = ((f"--{name.replace('_', '-')}", value) for name, value in request.costs.items())
    return [text for name, value in options for text in (name, repr(value))]


class JobRuns(RuntimeError):
    """A command of this verb runs already."""


def arguments(request: JobRequest) -> list[str]:
    """A request as the arguments of `whiteboard`.

    ValueError: a swap names no candidate.

    >>> arguments(JobRequest(verb="load", design="fraud", rate=300, seconds=30))
    ['load', 'fraud', '--rate', '300', '--duration', '30', '--json']
    >>> arguments(JobRequest(verb="load", design="fraud", rate=300, seconds=30, knee=True))[-1]
    '--knee'
    """
    if request.verb == "swap" and not request.candidate:
        raise ValueError("candidate: which one?")
    return [request.verb, request.design, *_ARGUMENTS[request.verb](request)]


def phase(code: int, figures: Mapping[str, Any] | None) -> str:
    """How a command ended: done, refused (the gate refused its challenger), or failed.

    >>> phase(2, {"record": {"event": "refused"}}), phase(2, None), phase(0, None)
    ('refused', 'failed', 'done')
    """
    record = (figures or {}).get("record") or {}
    if code == _REFUSED and record.get("event") == PromotionEvent.refused:
        return "refused"
    return "failed" if code else "done"


class Job:
    """One run of a command."""

    def __init__(self, request: JobRequest) -> None:
        self._arguments = arguments(request)
        self._begin = time.monotonic()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False
        command = " ".join(["whiteboard", *self._arguments])
        self.state = JobState(
            command=command, verb=request.verb, design=request.design, phase="running",
            seconds=0.0, output="",
        )  # fmt: skip
        self.task = asyncio.create_task(self._run())

    def now(self) -> JobState:
        """Its state."""
        if self.state.phase == "running":
            self.state.seconds = round(time.monotonic() - self._begin, 1)
        self.state.output = "\n".join(self._lines)
        return self.state

    async def stop(self) -> None:
        """End it; what it did stays done."""
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        ended = "failed"
        try:
            code = await self._execute()
            ended = phase(code, self.state.figures)
        except (OSError, ValueError) as error:  # it did not start, or its output is no text
            self._lines.append(str(error) or type(error).__name__)
        finally:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            self.state.seconds = round(time.monotonic() - self._begin, 1)
            self.state.phase = "stopped" if self._stopped else ended

    async def _execute(self) -> int:
        """Run the command to its end. Returns its exit code."""
        pipe = asyncio.subprocess.PIPE
        environ = {**environment(), "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli.main", *self._arguments, limit=_MAX_LINE,
            stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environ,
        )  # fmt: skip
        if self._stopped:  # before there was a process
            process.terminate()
        assert process.stdout is not None
        assert process.stderr is not None
        printed, _ = await asyncio.gather(process.stdout.read(), self._collect(process.stderr))
        code = await process.wait()
        with suppress(orjson.JSONDecodeError):
            found = orjson.loads(printed)
            self.state.figures = found if isinstance(found, dict) else None
        if self.state.figures is None:
            self._lines.extend(printed.decode(errors="replace").splitlines())
        return code

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").replace("\r", "\n").strip()
            if text:
                self._lines.append(text.splitlines()[-1])


class Jobs:
    """The newest run of each verb of each design."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], Job] = {}

    def start(self, request: JobRequest) -> JobState:
        """Start a command.

        Raises:
            JobRuns: one of its verb runs already.
            ValueError: a parameter is missing.
        """
        key = request.design, request.verb
        job = self._jobs.get(key)
        if job is not None and job.now().phase == "running":
            raise JobRuns(f"`{job.state.command}` runs already")
        self._jobs[key] = job = Job(request)
        return job.now()

    async def stop(self, design: str, verb: str) -> JobState:
        """Stop a command. KeyError: there is none."""
        job = self._jobs[design, verb]
        await job.stop()
        return job.now()

    def all(self) -> list[JobState]:
        """The newest run of each."""
        return [job.now() for job in self._jobs.values()]

    async def close(self) -> None:
        """Stop everything that runs."""
        await asyncio.gather(*(job.stop() for job in self._jobs.values()))
