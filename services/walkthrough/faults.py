"""Break a process and report what it did to the answers."""

import asyncio
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from infra.local.bad_link import behind_proxy
from infra.local.engines import environment
from infra.local.faults import Kind, mend, strike
from infra.local.supervisor import Supervisor
from services.platform.diagram import Diagram
from services.platform.runtime.tcp_proxy import BadLink
from services.platform.settings import Settings
from services.walkthrough.answers import DamageState, FaultReport, FaultRequest
from services.walkthrough.board import Board
from services.walkthrough.sources import Scrape

_MEND_S = 60.0
# Readings after the mending that still count: degraded answers end a moment later.
_AFTERWARDS = 3
# The lake may take a minute, and the fold of the events another.
_COUNT_S = 300.0


class Busy(RuntimeError):
    """A fault is on already."""


class NotOurs(RuntimeError):
    """The process was not started by `whiteboard up`."""


class Faults:
    """Faults of one installation, one at a time."""

    def __init__(self, config: Settings, board: Board) -> None:
        self._config = config
        self._board = board
        self._supervisor = Supervisor(config)
        self._task: asyncio.Task[None] | None = None
        self.report: FaultReport | None = None

    def begin(self, request: FaultRequest, design: str) -> FaultReport:
        """Begin a fault. It runs on; `report` tells how it goes.

        Args:
            design: Whose service's answers are reported.

        Raises:
            Busy: a fault is on already.
            NotOurs: the processes are containers.
            KeyError: no box of the design is this process.
        """
        if self._config.host_by_name:
            name = request.process
            raise NotOurs(
                f"{name} is a container: `docker compose kill {name}` in a terminal, then "
                f"`docker compose up -d {name}`"
            )
        if self._task is not None and not self._task.done():
            raise Busy("a process is broken already: wait until it is mended and counted")
        expected = _expected(self._board.diagrams[design], request)
        self.report = FaultReport(
            process=request.process, kind=request.kind, phase="striking", expected=expected
        )
        self._task = asyncio.create_task(self._run(request, design, self.report))
        return self.report

    async def close(self) -> None:
        """End a fault that is on; the process is mended first."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, request: FaultRequest, design: str, report: FaultReport) -> None:
        since = datetime.now(UTC)
        service = self._board.designs[design].http.name
        budget_s = self._board.designs[design].problem().latency_budget_ms / 1e3
        async with self._board.watched():
            watching = asyncio.create_task(self._watch(report, service, budget_s))
            try:
                await self._strike(request, report)
                if self._board.designs[design].damage is not None:
                    report.phase = "counting"
            except (KeyError, OSError, RuntimeError) as error:
                report.phase, report.error = "failed", str(error.args[0] if error.args else error)
            finally:
                watching.cancel()
        if report.phase == "counting":
            await _count_damage(report, design, since)
        if report.phase != "failed":
            report.phase = "done"

    async def _strike(self, request: FaultRequest, report: FaultReport) -> None:
        kind, name = Kind(request.kind), request.process
        begin = time.monotonic()
        await self._board.next_reading()  # what was before
        await self._break(request, kind)
        report.phase = "mending"
        struck = False
        while time.monotonic() - begin < _MEND_S + request.seconds:
            await self._board.next_reading()
            running = self._board.process_state(name) == "running"
            struck = struck or not running
            # A killed engine may be back before the next reading.
            if running and (struck or time.monotonic() - begin > request.seconds + _AFTERWARDS):
                break
        else:
            raise RuntimeError(f"{name} is not back: `whiteboard status` names its log")
        report.down_s = round(time.monotonic() - begin, 1)
        for _ in range(_AFTERWARDS):
            await self._board.next_reading()

    async def _break(self, request: FaultRequest, kind: Kind) -> None:
        """Break it, wait, and mend it."""
        name = request.process
        if kind is Kind.slow:
            link = BadLink(request.latency_ms, request.jitter_ms, request.resets)
            await behind_proxy(self._config, self._supervisor, name, link, request.seconds)
            return
        striking = asyncio.create_task(asyncio.to_thread(strike, self._supervisor, name, kind))
        try:
            await asyncio.shield(striking)
            if kind is not Kind.kill:
                await asyncio.sleep(request.seconds)
        finally:
            # A thread goes on when its task is cancelled.
            [failed] = await asyncio.gather(striking, return_exceptions=True)
            if failed is None:
                await asyncio.to_thread(mend, self._supervisor, name, kind)

    async def _watch(self, report: FaultReport, service: str, budget_s: float) -> None:
        """Count answers from reading to reading, until cancelled."""
        begin, before = time.monotonic(), None
        while True:
            await self._board.next_reading()
            reading = self._board.readings[service][-1]
            if reading.state == "running":
                if before is not None:
                    _count(report, before, reading, budget_s)
                before = reading
            report.seconds = round(time.monotonic() - begin, 1)
            waits = [_sum(r[-1], "consumer_lag_events") for r in self._board.readings.values() if r]
            report.waiting = max(report.waiting, round(max(waits, default=0.0)))


async def _count_damage(report: FaultReport, design: str, since: datetime) -> None:
    """Count by `whiteboard damage`: features of a time take seconds of a processor and memory."""
    until, pipe = datetime.now(UTC), asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli.main", "damage", design,
        "--since", since.isoformat(), "--until", until.isoformat(), "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        env={**environment(), "COLUMNS": "500", "TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_COUNT_S):
            printed, said = await process.communicate()
        report.damage = DamageState.model_validate_json(printed)
    except TimeoutError:
        report.uncounted = f"not counted within {_COUNT_S:.0f} s"
    except ValidationError:
        lines = said.decode(errors="replace").split("\n")
        report.uncounted = next((line for line in reversed(lines) if line.strip()), "not counted")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _expected(diagram: Diagram, request: FaultRequest) -> str:
    for box in diagram.boxes:
        if box.process == request.process:
            return box.faults.get(request.kind, "Nothing was said beforehand.")
    raise KeyError(f"no box is the process {request.process!r}")


def _count(report: FaultReport, before: Scrape, now: Scrape, budget_s: float) -> None:
    """Add what happened between two readings of the service."""
    count = "request_duration_seconds_bucket"
    answered = _grown(before, now, "requests_total")
    failed = answered - _grown(before, now, "requests_total", {"status": "200"})
    report.answers += round(answered)
    report.failed += round(failed)
    report.degraded += round(_grown(before, now, "decisions_total", {"degraded": "true"}))
    timed = _grown(before, now, count, {"le": "+Inf"})
    if timed:
        share = _grown(before, now, count, {"le": str(budget_s)}) / timed
        done = report.answers - answered
        report.in_budget = ((report.in_budget or 0.0) * done + share * answered) / report.answers
    report.outbox = max(report.outbox, round(_sum(now, "outbox_events")))
    report.dropped = max(report.dropped, round(_sum(now, "outbox_dropped_events")))


def _grown(before: Scrape, now: Scrape, metric: str, labels: dict[str, str] | None = None) -> float:
    """Growth of a counter; one that fell began again at 0."""
    old, new = _sum(before, metric, labels), _sum(now, metric, labels)
    return new - old if new >= old else new


def _sum(reading: Scrape, metric: str, labels: dict[str, str] | None = None) -> float:
    wanted = (labels or {}).items()
    samples = reading.samples.get(metric, ())
    return sum(value for series, value in samples if wanted <= series.items())
