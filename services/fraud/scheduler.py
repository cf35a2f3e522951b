"""The scheduler: the nightly job by the clock, or sooner when drift is reported or a person asks.

It runs each job as a process of its own, the same command a person would type, one at a time:
training's libraries and memory are gone when the job is. An order is acknowledged as it starts:
one that takes this process down is not tried for ever.
"""

import asyncio
import logging
import sys
import time

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from pydantic import ValidationError

from services.skeleton.admin import CONTROL, Order, control_subject
from services.skeleton.process import run_worker
from services.skeleton.settings import Settings, settings
from services.skeleton.stream import connect, ensure_stream
from services.skeleton.telemetry import EVENTS

log = logging.getLogger(__name__)

DESIGN = "fraud"
NAME = "scheduler"
ALERTS = f"alerts.{DESIGN}.drift"
# Drift is reported for as long as it lasts; one night an hour is enough of an answer.
_CALM_S = 3_600.0


class Scheduler:
    """Queues jobs and runs them one after the other."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._last_alert = -_CALM_S

    async def work(self) -> None:
        """Run jobs as they come. Runs until cancelled."""
        while True:
            job = await self._jobs.get()
            log.info("starting %s", " ".join(job))
            command = (sys.executable, "-m", "services.cli.main", *job, "--json")
            process = await asyncio.create_subprocess_exec(*command)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
            # 2 says that the gate refused, which is an answer, not a failure.
            EVENTS.labels(NAME, "done" if code in (0, 2) else "failed").inc()
            log.info("%s ended with %d", " ".join(job), code)

    def night(self) -> None:
        """Queue the nightly job."""
        self._jobs.put_nowait(("night", DESIGN))

    async def on_alert(self, message: Msg) -> None:
        """Queue a night when drift is reported, once an hour at most."""
        if time.monotonic() - self._last_alert >= _CALM_S:
            self._last_alert = time.monotonic()
            log.warning("drift reported: %s", message.data[:200].decode(errors="replace"))
            self.night()

    def order(self, data: bytes) -> None:
        """Queue what an order asks for. ValidationError if it can't be read."""
        asked = Order.model_validate_json(data)
        if asked.verb == "night":
            self.night()
        elif asked.verb == "rollback":
            self._jobs.put_nowait(("rollback", DESIGN, "--reason", asked.reason))
        elif asked.candidate:
            self._jobs.put_nowait(("swap", DESIGN, asked.candidate))


async def take_orders(nc: Client, scheduler: Scheduler) -> None:
    """Pass orders of the control stream on. Runs until cancelled."""
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    orders = await js.pull_subscribe(control_subject(DESIGN), durable=f"{NAME}-{DESIGN}")
    while True:
        try:
            [message] = await orders.fetch(1, timeout=30)
        except (NatsTimeout, TimeoutError):
            continue
        await message.ack()
        try:
            scheduler.order(message.data)
        except ValidationError as error:
            log.warning("an order that can't be read: %s", error.errors()[0]["msg"])


async def serve(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, NAME, patience_s=60.0)
    scheduler = Scheduler()
    hour, minute = config.night_utc.split(":")
    clock = AsyncIOScheduler(timezone="UTC")
    clock.add_job(scheduler.night, CronTrigger(hour=hour, minute=minute, timezone="UTC"))
    clock.start()
    await nc.subscribe(ALERTS, cb=scheduler.on_alert)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scheduler.work())
            group.create_task(take_orders(nc, scheduler))
    finally:
        clock.shutdown(wait=False)
        await nc.close()


def main() -> None:
    """Start the scheduler."""
    config = settings()
    run_worker(config, config.metrics_port + 3, lambda: serve(config))


if __name__ == "__main__":
    main()
