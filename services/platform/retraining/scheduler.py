"""The scheduler: retrains and compacts nightly, and retrains sooner on an alert or a command.

It runs each job as a process of its own, one at a time, so that training's libraries and memory are
freed with it. Its command line names the program that runs a job. A command is acknowledged before
it runs, so one that crashes the scheduler is not retried.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext, api
from pydantic import ValidationError

from services.platform.design import Design, registered
from services.platform.retraining.commands import CONTROL, Command, control_subject
from services.platform.runtime.worker import lower_priority
from services.platform.settings import Settings
from services.platform.streaming.connection import connect, ensure_stream
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "scheduler"
_FETCH_S = 5.0
# Alerts repeat as long as the drift lasts; one retraining an hour is enough.
_ALERT_INTERVAL_S = 3_600.0
# A night that the scheduler was late for still runs; APScheduler's default gives up after 1 s.
_NIGHT_GRACE_S = 3_600
# Who sends decisions decides what drifts, so a day brings no more nights than these.
_MAX_ALERTS, _ALERTS_S = 4, 86_400.0


class Scheduler:
    """Queues jobs and runs them one at a time."""

    def __init__(self, program: Sequence[str]) -> None:
        """Queue nothing yet.

        Args:
            program: Command that runs a job, followed by the job and `--json`.
        """
        self._program = program
        self._jobs: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._alerts: dict[str, deque[float]] = {}

    async def run_jobs(self) -> None:
        """Run queued jobs. Runs until cancelled."""
        while True:
            job = await self._jobs.get()
            log.info("starting %s", " ".join(job))
            command = (*self._program, *job, "--json")
            process = await asyncio.create_subprocess_exec(*command)
            if job[0] != "rollback":
                lower_priority(process.pid)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
            # 2 means that the gate refused, which is not a failure.
            EVENTS.labels(NAME, "done" if code in (0, 2) else "failed").inc()
            log.info("%s ended with %d", " ".join(job), code)

    def queue_retraining(self, design: str) -> None:
        """Queue the nightly job."""
        self._jobs.put_nowait(("night", design))

    def queue_night(self, design: str, compact: bool) -> None:
        """Queue what a night brings: retraining, then the lake's compaction if it has tables."""
        self.queue_retraining(design)
        if compact:
            self._jobs.put_nowait(("compact", design))

    def handle_alert(self, design: str, alert: bytes) -> None:
        """Queue a retraining on drift or cost, once an hour and four times a day at most.

        A drift that one source made, among others, is a matter of that source (a lens, a caller).
        """
        text = alert[:200].decode(errors="replace")
        if source := _dominating_source(alert):
            log.warning("not retrained, nearly all decisions come from %s: %s", source, text)
            return
        now, started = time.monotonic(), self._alerts.setdefault(design, deque(maxlen=_MAX_ALERTS))
        is_early = bool(started) and now - started[-1] < _ALERT_INTERVAL_S
        if is_early or (len(started) == _MAX_ALERTS and now - started[0] < _ALERTS_S):
            return
        started.append(now)
        log.warning("alert: %s", text)
        self.queue_retraining(design)

    def queue_command(self, design: str, data: bytes) -> None:
        """Queue a command's job. ValidationError if the command is malformed."""
        command = Command.model_validate_json(data)
        if command.verb == "night":
            self.queue_retraining(design)
        elif command.verb == "rollback":
            self._jobs.put_nowait(("rollback", design, "--reason", command.reason))
        elif command.candidate:
            self._jobs.put_nowait(("swap", design, command.candidate))


class CommandReader:
    """Queues a design's commands from the control stream."""

    def __init__(self, nc: Client, scheduler: Scheduler, design: str) -> None:
        """Request nothing yet."""
        self._js = nc.jetstream()
        self._scheduler = scheduler
        self._design = design
        # Sequence up to which commands were read.
        self._read = 0

    async def run(self) -> None:
        """Queue commands until cancelled. An error of NATS is waited out: a job may be running."""
        await retry_forever(self._follow, f"commands of {self._design}")

    async def _follow(self) -> None:
        """Queue commands until NATS fails.

        Raises:
            nats.errors.Error, OSError: NATS is unavailable, or the durable consumer was deleted.
        """
        commands = await self._subscribe()
        try:
            while True:
                try:
                    [message] = await commands.fetch(1, timeout=_FETCH_S)
                except (NatsTimeout, TimeoutError):
                    continue
                await self._take(message)
        finally:
            with suppress(NatsError):
                await commands.unsubscribe()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        """Go on where reading stopped; with a new durable, behind what was read: no rollback twice.

        Before anything was read, the durable knows where that is.
        """
        await ensure_stream(self._js, CONTROL, ["control.>"])
        if self._read > (await self._js.stream_info(CONTROL)).state.last_seq:
            self._read = 0  # it is a new stream
        after = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._read + 1
        )
        commands = await self._js.pull_subscribe(
            control_subject(self._design),
            durable=f"{NAME}-{self._design}",
            stream=CONTROL,
            config=after,
        )
        floor = (await commands.consumer_info()).ack_floor
        self._read = max(self._read, floor.stream_seq if floor else 0)
        return commands

    async def _take(self, message: Msg) -> None:
        await message.ack()
        self._read = message.metadata.sequence.stream
        try:
            self._scheduler.queue_command(self._design, message.data)
        except ValidationError as error:
            log.warning("malformed command: %s", error.errors()[0]["msg"])


async def forward_alerts(nc: Client, scheduler: Scheduler, design: str) -> None:
    """Queue a retraining on a design's alerts, which are repeated while their cause lasts."""

    async def on_alert(message: Msg) -> None:
        scheduler.handle_alert(design, message.data)

    await nc.subscribe(f"alerts.{design}.*", cb=on_alert)


def _dominating_source(alert: bytes) -> str:
    """The field `dominated_by` of an alert; empty where there is none."""
    try:
        found = orjson.loads(alert)
    except ValueError:
        return ""
    return str(found.get("dominated_by", ""))[:80] if isinstance(found, dict) else ""


def schedule_nights(
    clock: AsyncIOScheduler, scheduler: Scheduler, designs: Mapping[str, Design], night_utc: str
) -> None:
    """Queue each design's night at a time of day; without one, another program runs the nights."""
    if not night_utc:
        return
    hour, minute = night_utc.split(":")
    for name, design in designs.items():
        trigger = CronTrigger(hour=hour, minute=minute, timezone="UTC")
        clock.add_job(
            scheduler.queue_night,
            trigger,
            [name, design.lake_tables is not None],
            misfire_grace_time=_NIGHT_GRACE_S,
            coalesce=True,
        )


async def main(config: Settings, program: Sequence[str]) -> None:
    """Run until cancelled.

    Args:
        program: See `Scheduler`.
    """
    designs = {design.name: design for design in registered(config)}
    nc = await connect(config, NAME, timeout_s=60.0)
    scheduler = Scheduler(program)
    clock = AsyncIOScheduler(timezone="UTC")
    schedule_nights(clock, scheduler, designs, config.night_utc)
    for design in designs:
        await forward_alerts(nc, scheduler, design)
    clock.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scheduler.run_jobs())
            for design in designs:
                group.create_task(CommandReader(nc, scheduler, design).run())
    finally:
        clock.shutdown(wait=False)
        await nc.close()


def parse_arguments(config: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of `main`: all its arguments are the program."""
    if not arguments:
        raise ValueError("which program runs the jobs? `scheduler whiteboard`")
    return {"program": tuple(arguments)}
